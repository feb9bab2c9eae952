//! What is no module, or not one to be trusted, is refused in words that
//! docs/writing-modules.md has too. Hostile files do not bring the binary down.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use emptcp::module::Family;
use emptcp::module::describe;
use emptcp_test::outside::compile;
use emptcp_test::outside::root;

/// A folder that goes away.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("emptcp-o{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        set_mode(&path, 0o755);
        Self(path)
    }

    fn modules(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir(&path).unwrap();
        set_mode(&path, 0o755);
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// `emptcp modules` with these folders: whether it succeeded, output, messages.
fn modules(folders: &[&Path]) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emptcp"));
    for folder in folders {
        command.arg("--modules").arg(folder);
    }
    let output = command.args(["--json", "modules"]).output().unwrap();
    assert!(output.status.code().is_some(), "{output:?}");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[track_caller]
fn assert_refused(folders: &[&Path], words: &[&str]) {
    let (ok, _, errors) = modules(folders);
    assert!(!ok, "taken, but for {words:?}");
    for word in words {
        assert!(errors.contains(word), "no {word:?} in: {errors}");
    }
}

/// The messages of docs/writing-modules.md, by the module of `tests/refused` that gets each.
#[test]
fn refusals_are_as_documented() {
    let folder = Folder::new("documented");
    let page = fs::read_to_string(root().join("docs/writing-modules.md")).unwrap();
    for (name, message) in [
        ("no_tag", "the object declares no module"),
        (
            "two_programs",
            "holds several programs, two_programs, another",
        ),
        ("other_abi", "has ABI 999, this emptcp has"),
        ("licence", "has the licence \"Proprietary\""),
        ("no_params", "has no parameters in its BTF"),
        ("unknown_type", "is not in the vocabulary of emptcp/types.h"),
        ("bit_field", "is a bit field"),
        (
            "other_section",
            "has a program in the section \"kprobe/tcp_sendmsg\"",
        ),
        ("unknown_flag", "has the unknown flag \"frobs\""),
        ("unknown_fact", "no event tells \"sauce\""),
        (
            "unknown_hook",
            "expected xdp, tc-ingress or tc-egress, found \"tc-sideways\"",
        ),
    ] {
        let to = folder.modules(name);
        compile("tests/refused", &to, &[&format!("{name}.tc.o")]);
        assert_refused(&[&to], &[message, &format!("{name}.tc.o: ")]);
        // What differs from case to case stands in quotes, or is a name or number.
        let documented = match name {
            "two_programs" => "holds several programs",
            "other_abi" => "has ABI 2, this emptcp has",
            "licence" => "has the licence",
            "other_section" => "has a program in the section",
            "unknown_flag" => "has the unknown flag",
            "unknown_fact" => "no event tells",
            "unknown_hook" => "expected xdp, tc-ingress or tc-egress",
            _ => message,
        };
        assert!(page.contains(documented), "not in the page: {documented}");
    }
    let good = folder.modules("good");
    compile("tests/refused", &good, &["good.tc.o"]);
    let (ok, list, errors) = modules(&[&good]);
    assert!(ok && list.contains("\"good\""), "{errors}");

    let object = fs::read(good.join("good.tc.o")).unwrap();
    // ELF of x86-64 (e_machine).
    let mut program = object.clone();
    program[18..20].copy_from_slice(&62u16.to_ne_bytes());
    let no_btf = without_btf(&object);
    let files: [(&str, &[u8], &str); 6] = [
        ("text.tc.o", b"int main;", "is no ELF object"),
        ("empty.tc.o", b"", "is no ELF object"),
        ("program.tc.o", &program, "is no BPF object"),
        ("cut.tc.o", &object[..object.len() / 2], "truncated"),
        ("good.xdp.o", &object, "has a program in the section \"tc\""),
        ("no_btf.tc.o", &no_btf, "has no BTF"),
    ];
    for (name, bytes, message) in files {
        let to = folder.modules(&format!("file-{name}"));
        fs::write(to.join(name), bytes).unwrap();
        assert_refused(&[&to], &[name, message]);
        let documented = message.split(" \"").next().unwrap();
        assert!(page.contains(documented), "not in the page: {documented}");
    }
}

/// The section .BTF gets another name.
fn without_btf(object: &[u8]) -> Vec<u8> {
    let mut bytes = object.to_vec();
    // As the end of .rel.BTF too.
    let at = bytes.windows(5).position(|w| w == b".BTF\0");
    bytes[at.unwrap() + 1] = b'-';
    bytes
}

#[test]
fn names_that_clash_are_refused_with_both_places() {
    let folder = Folder::new("clash");
    let [one, two] = ["one", "two"].map(|name| {
        let to = folder.modules(name);
        compile("tests/refused", &to, &["good.xdp.o", "good.tc.o"]);
        to
    });
    let path = |folder: &Path| folder.join("good.tc.o").display().to_string();
    assert_refused(
        &[&one, &two],
        &["module good is already there", &path(&one), &path(&two)],
    );
    // The same folder twice, under two names, is no clash.
    let alias = folder.0.join("alias");
    symlink(&one, &alias).unwrap();
    let (ok, list, errors) = modules(&[&one, &one, &alias]);
    assert!(ok, "{errors}");
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let of = |name: &str| {
        let mut found = list
            .as_array()
            .unwrap()
            .iter()
            .filter(|m| m["name"] == name);
        found.next().unwrap().clone()
    };
    let files = ["good.tc.o", "good.xdp.o"].map(|f| one.join(f).display().to_string());
    assert_eq!(of("good")["files"], serde_json::json!(files));
    assert_eq!(of("good")["builtin"], false);
    assert_eq!(of("accept")["builtin"], true);
    assert_eq!(of("accept")["files"], serde_json::json!([]));

    // With one of the binary's own: a module that calls itself as one of those.
    let builtin = folder.modules("builtin");
    let source = fs::read_to_string(root().join("tests/refused/good.bpf.c")).unwrap();
    fs::write(
        builtin.join("accept.bpf.c"),
        source.replace("good", "accept"),
    )
    .unwrap();
    emptcp_test::outside::make(&builtin, &["accept.tc.o"]);
    assert_refused(
        &[&builtin],
        &["accept.tc.o: module accept is already there, from built-in"],
    );
}

#[test]
fn a_folder_that_is_named_must_be_there() {
    assert_refused(
        &[Path::new("/nonexistent/modules")],
        &["/nonexistent/modules", "No such file"],
    );
    let folder = Folder::new("file");
    let file = folder.0.join("file");
    fs::write(&file, "").unwrap();
    assert_refused(&[&file], &["Not a directory"]);
}

/// Who can write to a module runs code in the kernel: as sshd does with keys.
#[test]
fn root_what_others_can_write_is_refused() {
    let folder = Folder::new("trust");
    let to = folder.modules("modules");
    compile("tests/refused", &to, &["good.tc.o"]);
    let object = to.join("good.tc.o");
    let taken = || modules(&[&to]).0;
    assert!(taken());
    let nobody = nix::unistd::Uid::from_raw(65534);
    let root_user = nix::unistd::Uid::from_raw(0);
    for path in [&object, &to, &folder.0] {
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for writable in [0o020, 0o002] {
            set_mode(path, mode | writable);
            let name = path.canonicalize().unwrap().display().to_string();
            assert_refused(&[&to], &["can be written by others", "chmod go-w", &name]);
        }
        set_mode(path, mode);
        nix::unistd::chown(path, Some(nobody), None).unwrap();
        assert_refused(&[&to], &["belongs to user 65534", "chown"]);
        nix::unistd::chown(path, Some(root_user), None).unwrap();
        assert!(taken());
    }
    // As in /tmp: nobody can exchange what is not his.
    set_mode(&folder.0, 0o1777);
    assert!(taken());
    // The sticky bit keeps nobody from adding a module.
    set_mode(&to, 0o1777);
    assert_refused(&[&to], &["can be written by others"]);
    set_mode(&to, 0o755);
    set_mode(&folder.0, 0o755);
    // A link out of the folder into one of somebody else's.
    let foreign = folder.modules("foreign");
    fs::rename(&object, foreign.join("good.tc.o")).unwrap();
    symlink(foreign.join("good.tc.o"), &object).unwrap();
    assert!(taken());
    nix::unistd::chown(&foreign, Some(nobody), None).unwrap();
    assert_refused(&[&to], &["belongs to user 65534"]);
    // Who can load nothing may look.
    let binary = folder.0.join("emptcp");
    fs::copy(env!("CARGO_BIN_EXE_emptcp"), &binary).unwrap();
    let unprivileged = |folder: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        command
            .arg(&binary)
            .arg("--modules")
            .arg(folder)
            .arg("modules");
        command.output().unwrap()
    };
    let output = unprivileged(&to);
    assert!(output.status.success(), "{output:?}");
    // A pipe, on which a reader would wait.
    fs::remove_file(&object).unwrap();
    nix::unistd::mkfifo(&object, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert_refused(&[&to], &["good.tc.o is no file"]);
    // A folder that may not be read.
    set_mode(&to, 0o700);
    let output = unprivileged(&to);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && errors.contains("Permission denied"),
        "{errors}"
    );
}

/// The folders that nobody names: of a mount namespace of the test's own.
#[test]
fn root_usual_folders_are_searched() {
    let folder = Folder::new("usual");
    let to = folder.modules("modules");
    compile("tests/refused", &to, &["good.tc.o"]);
    let binary = folder.0.join("emptcp");
    fs::copy(env!("CARGO_BIN_EXE_emptcp"), &binary).unwrap();
    let run = |script: &str| {
        let prepare = "mount -t tmpfs -o mode=755 t /etc; mkdir -p /etc/emptcp/modules; cd $0;";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &format!("{prepare} {script}")]);
        let output = command.arg(&folder.0).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (
            output.status.success(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let put = "cp modules/good.tc.o /etc/emptcp/modules";
    let (ok, list, errors) = run(&format!("{put}; ./emptcp modules good"));
    assert!(ok, "{errors}");
    assert!(
        list.contains("\n  from /etc/emptcp/modules/good.tc.o\n"),
        "{list}"
    );
    let (ok, _, errors) = run(&format!("{put}; ./emptcp --modules modules modules good"));
    assert!(
        !ok && errors.contains("from /etc/emptcp/modules/good.tc.o"),
        "{errors}"
    );
    let (ok, _, errors) = run("rm -r /etc/emptcp; ./emptcp modules accept");
    assert!(ok && errors.is_empty(), "{errors}");
    let (ok, _, errors) = run("chmod o+w /etc/emptcp/modules; ./emptcp modules accept");
    assert!(
        !ok && errors.contains("/etc/emptcp/modules can be written"),
        "{errors}"
    );
    // Who may not read the folder does without, and is told.
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups --";
    let closed = "chmod 700 /etc/emptcp/modules";
    let (ok, _, errors) = run(&format!(
        "{put}; {closed}; {nobody} ./emptcp modules accept"
    ));
    assert!(ok && errors.contains("Permission denied"), "{errors}");
    let (ok, _, _) = run(&format!("{put}; {closed}; {nobody} ./emptcp modules good"));
    assert!(!ok);
}

/// A small generator of numbers (xorshift64), so that each run has the same.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Objects that were changed in a few bytes: an error, or the description of a module. Most
/// changes are where the description is, and of numbers into those that are rarely right.
/// `EMPTCP_FUZZ=100000` tries so many.
#[test]
fn damaged_objects_are_described_or_refused() {
    let folder = Folder::new("fuzz");
    compile(
        "tests/modules-src",
        &folder.0,
        &["every_type.tc.o", "tables.tc.o"],
    );
    libbpf_rs::set_print(None);
    let rounds = std::env::var("EMPTCP_FUZZ").map_or(2000, |n| n.parse().unwrap());
    let mut random = Random(0x1a2b_3c4d_5e6f);
    let (mut described, mut refused) = (0, 0);
    for name in ["every_type.tc.o", "tables.tc.o"] {
        let good = fs::read(folder.0.join(name)).unwrap();
        assert!(describe(&good, Family::Tc).is_ok());
        let btf = good
            .windows(4)
            .position(|w| w == [0x9f, 0xeb, 1, 0])
            .unwrap();
        for _ in 0..rounds / 2 {
            let mut bytes = good.clone();
            for _ in 0..=random.below(4) {
                let (start, room) = match random.below(4) {
                    // The ELF header; anywhere; else the types of BTF.
                    0 => (0, 64),
                    1 => (0, bytes.len()),
                    _ => (btf, 6000.min(bytes.len() - btf)),
                };
                let at = start + random.below(room);
                bytes[at] = match random.below(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => bytes[at].wrapping_add(1),
                    _ => random.below(256) as u8,
                };
            }
            if random.below(10) == 0 {
                bytes.truncate(random.below(good.len()));
            }
            match describe(&bytes, Family::Tc) {
                Ok(object) => {
                    described += 1;
                    assert!(!object.module.name.is_empty());
                }
                Err(problem) => {
                    refused += 1;
                    assert!(!problem.is_empty());
                }
            }
        }
    }
    println!("{described} described, {refused} refused");
    assert!(
        described > rounds / 20 && refused > rounds / 20,
        "{described} {refused}"
    );
}
