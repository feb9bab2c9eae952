//! A verb that reads a ring until a signal ends it.

use std::fs::File;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::rig::Killed;
use super::rig::Rig;
use super::rig::wait_for;
use super::secrets::heard;

/// A reader that runs; both its outputs go to files.
pub(crate) struct Reader {
    pub(crate) child: Killed,
    out: std::path::PathBuf,
    err: std::path::PathBuf,
}

impl Reader {
    /// Starts it, and waits until it reads.
    pub(crate) fn start(rig: &Rig, name: &str, args: &[&str]) -> Self {
        let out = rig.folder.write(&format!("{name}.out"), "");
        let err = rig.folder.write(&format!("{name}.err"), "");
        let mut command = rig.emptcp(args);
        command.stdout(File::create(&out).unwrap());
        command.stderr(File::create(&err).unwrap());
        let child = Killed(command.spawn().unwrap());
        let reader = Self { child, out, err };
        wait_for("the reader begins", Duration::from_secs(5), || {
            reader.said("until a signal")
        });
        reader
    }

    fn said(&self, what: &str) -> bool {
        std::fs::read_to_string(&self.err).unwrap().contains(what)
    }

    /// What it has written to standard output.
    pub(crate) fn out(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap()
    }

    /// nsenter becomes the command: their process is the same.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.0.id() as i32), signal).unwrap();
    }

    /// Waits for its end; what it wrote to standard output and error.
    pub(crate) fn wait(mut self) -> (String, String) {
        let status = self.child.0.wait().unwrap();
        let err = std::fs::read_to_string(&self.err).unwrap();
        assert!(status.success(), "{status}: {err}");
        (self.out(), err)
    }

    /// Ends it, as Ctrl-C does.
    pub(crate) fn end(self) -> (String, String) {
        self.signal(Signal::SIGINT);
        self.wait()
    }
}

/// Another one may write to the same files.
impl Drop for Reader {
    fn drop(&mut self) {
        for file in [&self.out, &self.err] {
            std::fs::read(file).into_iter().for_each(heard);
        }
    }
}

/// Records read and lost, from the message at the end.
pub(crate) fn counts(err: &str) -> (u64, u64) {
    let line = err.lines().find(|l| l.ends_with(" lost")).unwrap();
    let mut numbers = line.split_whitespace().filter_map(|w| w.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}
