//! Logs that kernels have written about `tests/bad`, and what is made of them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::cause::CAUSES;
use super::report;
use super::words;
use crate::sys::Refused;
use crate::sys::SourceLine;

const KERNELS: [&str; 4] = ["5.10", "6.1", "6.12", "6.18"];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What each kernel said, by the name of the module.
fn logs(kernel: &str) -> BTreeMap<String, String> {
    let text = read(&format!("tests/verifier-logs/{kernel}.txt"));
    let parts = text.split("=== ").skip(1);
    let named = parts.filter_map(|part| part.split_once('\n'));
    named
        .map(|(name, log)| (name.to_owned(), log.to_owned()))
        .collect()
}

/// The cause that a module of `tests/bad` wants to be told.
fn expected(name: &str) -> String {
    let text = read(&format!("tests/bad/{name}.bpf.c"));
    let (_, rest) = text.split_once("expect: ").unwrap_or_default();
    rest.split(' ').next().unwrap_or_default().to_owned()
}

fn refused(log: &str, errno: i32) -> Refused {
    Refused {
        error: io::Error::from_raw_os_error(errno),
        log: log.to_owned(),
        lines: Vec::new(),
    }
}

#[test]
fn every_kernel_tells_the_cause() {
    for kernel in KERNELS {
        let logs = logs(kernel);
        assert!(logs.len() >= 18, "{kernel}: {} logs", logs.len());
        for (name, log) in logs {
            // Long logs have no verdict before 6.4, but the kernel's error tells.
            let errno = match name.as_str() {
                "too_complex" => libc::E2BIG,
                _ => libc::EACCES,
            };
            let text = report("step", &refused(&log, errno));
            let head = format!("step: the kernel refuses the program [{}]", expected(&name));
            assert_eq!(
                text.lines().next(),
                Some(&*head),
                "{kernel} {name}:\n{text}"
            );
        }
    }
}

/// What registers held, whatever the kernel calls it.
#[test]
fn every_kernel_tells_the_registers() {
    let mut missing = Vec::new();
    for (name, says) in [
        ("map_value_null", "  r0 is a value"),
        ("map_value_null", ", or NULL"),
        (
            "packet_unchecked",
            "is a pointer into the packet; 0 bytes are checked",
        ),
        (
            "packet_beyond",
            "is a pointer into the packet; 2 bytes are checked",
        ),
        ("argument", "  r2 is the number 5"),
        ("context_access", "  r6 is the context"),
        ("read_only", "is a pointer into a value"),
    ] {
        for kernel in KERNELS {
            let text = report("step", &refused(&logs(kernel)[name], libc::EACCES));
            if !text.contains(says) {
                missing.push(format!("{kernel} {name}: no {says:?} in\n{text}"));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    // What a helper has made void is no pointer any more, though a state before it said so.
    for kernel in KERNELS {
        let text = report(
            "step",
            &refused(&logs(kernel)["pointer_void"], libc::EACCES),
        );
        assert!(
            !text.contains("a pointer into the packet;"),
            "{kernel}:\n{text}"
        );
    }
}

fn line(insn: u32, file: &str, line: u32, text: &str) -> SourceLine {
    SourceLine {
        insn,
        file: file.to_owned(),
        line,
        text: text.to_owned(),
    }
}

#[test]
fn the_place_is_that_of_the_instruction() {
    let log = "0: R1=ctx(id=0,off=0,imm=0) R10=fp0\n; first\n0: (b7) r0 = 0\n; third\n\
               7: (71) r1 = *(u8 *)(r2 +0)\nR2 !read_ok\nprocessed 3 insns\n";
    let mut refused = refused(log, libc::EACCES);
    assert!(report("s", &refused).contains("\n  source: third\n"));
    refused.lines = vec![
        line(0, "m.bpf.c", 30, "MACRO"),
        line(0, "m.bpf.c", 12, "\tfirst"),
        line(5, "parse.h", 99, "\tinside"),
        line(8, "m.bpf.c", 13, "\tbehind"),
    ];
    let text = report("s", &refused);
    assert!(text.contains("\n  --> parse.h:99\n  99 | inside"), "{text}");
    assert!(
        text.contains("\n  behind m.bpf.c:12\n  12 | first"),
        "{text}"
    );
    // Of the allocation, not of the end.
    refused.log = "0: (b7) r0 = 0\n8: (95) exit\nUnreleased reference id=2 alloc_insn=5\n".into();
    assert!(report("s", &refused).contains("--> parse.h:99"));
}

#[test]
fn an_unknown_cause_shows_the_end_of_the_log() {
    let log = "0: (b7) r0 = 0\n1: (95) exit\nthe moon is in the wrong house\nprocessed 2 insns\n";
    let text = report("s", &refused(log, libc::EINVAL));
    assert_eq!(
        text,
        "s: the kernel refuses the program: Invalid argument (os error 22)\n  \
         0: (b7) r0 = 0\n  1: (95) exit\n  the moon is in the wrong house"
    );
    let text = report("s", &refused("", libc::EPERM));
    assert_eq!(
        text,
        "s: the kernel refuses the program: Operation not permitted (os error 1)"
    );
}

#[test]
fn registers_in_words() {
    for (state, wanted) in [
        ("inv5", "the number 5"),
        ("invP-3", "the number -3"),
        ("7", "the number 7"),
        ("inv(id=0)", "a number of which nothing is known"),
        ("scalar()", "a number of which nothing is known"),
        (
            "inv(id=0,umax_value=255,var_off=(0x0; 0xff))",
            "a number from 0 to 255",
        ),
        (
            "scalar(smin=smin32=0,smax=umax=smax32=umax32=0xffff,var_off=(0x0; 0xffff))",
            "a number from 0 to 65535",
        ),
        ("scalar(smin=-128,smax=127)", "a number from -128 to 127"),
        (
            "pkt(id=0,off=14,r=34,imm=0)",
            "a pointer into the packet, 14 bytes behind its start; 34 bytes are checked",
        ),
        (
            "pkt(id=2,off=20,r=0,umax_value=63,var_off=(0x0; 0x3f))",
            "a pointer into the packet, 20 bytes and an offset from 0 to 63 behind its start; 0 \
             bytes are checked",
        ),
        (
            "map_value_or_null(id=2,map=m,ks=4,vs=8)",
            "a value of the map m (8 bytes), or NULL",
        ),
        ("sock_or_null(id=3)", "a pointer of type sock, or NULL"),
        ("fp-16", "a pointer to the stack"),
        ("ptr_task_struct(off=8)", "ptr_task_struct(off=8)"),
    ] {
        assert_eq!(words::of(state), wanted, "{state}");
    }
}

/// The page for authors has the causes in this order.
#[test]
fn causes_are_documented() {
    let page = read("docs/writing-modules.md");
    let rows = page
        .lines()
        .filter_map(|l| l.strip_prefix("| `")?.split_once("` | "));
    let mut documented: Vec<&str> = rows.map(|(name, _)| name).collect();
    documented.retain(|name| CAUSES.iter().any(|c| c.name == *name));
    let names: Vec<&str> = CAUSES.iter().map(|c| c.name).collect();
    assert_eq!(documented, names);
    for cause in CAUSES {
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let row = format!("| `{}` | {} | {} |", cause.name, cause.why, cause.cure);
        assert!(page.contains(&squeezed(&row)), "not in the page: {row}");
    }
}
