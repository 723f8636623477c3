//! Compiles components in a child process with limits on memory, CPU and time.
//!
//! wasmtime does not call it a vulnerability when a component makes its compiler slow or big, so the compiler runs
//! where it can be killed: a child of our own binary that gets the component on stdin and gives machine code on stdout.
//! Both sides stand here. The child opens no file and no socket; it must not run any guest code.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use phronis_core::code::COMPILE_FAILED;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::error::Refusal;
use crate::settings;

/// How the compile child is started and what it may use.
#[derive(Debug, Clone)]
pub struct Compiler {
    /// The program; it must end up in [`compile_child`].
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Address space, in bytes.
    pub memory: u64,
    /// CPU time, in whole seconds.
    pub cpu: Duration,
    /// Time on the wall.
    pub wall: Duration,
}

impl Compiler {
    /// A child with the default limits: 2 GiB, 20 s of CPU, 30 s on the wall.
    pub fn new(program: impl Into<PathBuf>, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            memory: 2 << 30,
            cpu: Duration::from_secs(20),
            wall: Duration::from_secs(30),
        }
    }

    /// Compiles a component in a child. Blocks; the caller keeps it to one at a time.
    ///
    /// # Errors
    ///
    /// [`COMPILE_FAILED`] with the compiler's words or the limit that was hit.
    pub(crate) fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, Refusal> {
        let until = Instant::now() + self.wall;
        let mut child = self.spawn()?;
        let outcome = self.talk(&mut child, wasm, until);
        // Dead or alive, nothing of it stays behind.
        child.kill().ok();
        child.wait().ok();
        outcome.map_err(|message| Refusal::new(COMPILE_FAILED, message))
    }

    fn spawn(&self) -> Result<Child, Refusal> {
        let spawned = Command::new(&self.program)
            .args(&self.args)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        spawned.map_err(|e| {
            let program = self.program.display();
            Refusal::new(COMPILE_FAILED, format!("the compiler process {program} cannot be started: {e}"))
        })
    }

    fn talk(&self, child: &mut Child, wasm: &[u8], until: Instant) -> Result<Vec<u8>, String> {
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err("the compiler process has no pipes".to_owned());
        };
        let mut input = Vec::with_capacity(wasm.len() + 16);
        input.extend(self.memory.to_le_bytes());
        input.extend(self.cpu.as_secs().max(1).to_le_bytes());
        input.extend(wasm);
        let (sender, receiver) = mpsc::channel();
        let errors = sender.clone();
        // A child that does not read, or does not stop writing, must not block us: the pipes have their own threads,
        // which end when the child is killed.
        std::thread::spawn(move || stdin.write_all(&input).ok());
        std::thread::spawn(move || sender.send((true, read(stdout, MOST_OUTPUT))).ok());
        std::thread::spawn(move || errors.send((false, read(stderr, MOST_WORDS))).ok());

        let (mut code, mut words) = (None, None);
        while code.is_none() || words.is_none() {
            match receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok((true, bytes)) => code = Some(bytes),
                Ok((false, bytes)) => words = Some(bytes),
                Err(_) => return Err(format!("compiling took longer than {} s", self.wall.as_secs())),
            }
        }
        let status = wait(child, until).ok_or_else(|| "the compiler process does not end".to_owned())?;
        let words = words.unwrap_or_default();
        match code {
            Some(code) if status.success() && !code.is_empty() => Ok(code),
            _ => Err(self.explain(status, &String::from_utf8_lossy(&words))),
        }
    }

    fn explain(&self, status: ExitStatus, words: &str) -> String {
        use std::os::unix::process::ExitStatusExt as _;
        const SIGABRT: i32 = 6;
        const SIGKILL: i32 = 9;
        const SIGSEGV: i32 = 11;
        const SIGXCPU: i32 = 24;
        match status.signal() {
            Some(SIGXCPU | SIGKILL) => format!("compiling took more than {} s of CPU", self.cpu.as_secs()),
            Some(SIGABRT | SIGSEGV) => format!("compiling needed more than {} MiB of memory", self.memory >> 20),
            Some(signal) => format!("the compiler died of signal {signal}"),
            None if words.trim().is_empty() => format!("the compiler ended with {status} and said nothing"),
            None => format!("the compiler refuses the component: {}", words.trim()),
        }
    }
}

/// The most machine code that is taken from a child.
const MOST_OUTPUT: u64 = 512 << 20;

/// The most words of an error that are taken from a child.
const MOST_WORDS: u64 = 16 << 10;

fn read(mut from: impl Read, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What was read before an error is judged with the exit status.
    from.by_ref().take(most).read_to_end(&mut bytes).ok();
    bytes
}

fn wait(child: &mut Child, until: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
            _ => return None,
        }
    }
}

/// The compile child: what the app's hidden subcommand runs.
///
/// Reads limits and a component on stdin, writes machine code to stdout or an error to stderr.
pub fn compile_child() -> ExitCode {
    match child() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            writeln!(io::stderr(), "{e}").ok();
            ExitCode::FAILURE
        }
    }
}

fn child() -> Result<(), String> {
    let mut stdin = io::stdin().lock();
    let (mut memory, mut cpu) = ([0; 8], [0; 8]);
    stdin.read_exact(&mut memory).and_then(|()| stdin.read_exact(&mut cpu)).map_err(|e| e.to_string())?;
    restrict(u64::from_le_bytes(memory), u64::from_le_bytes(cpu)).map_err(|e| e.to_string())?;
    let mut wasm = Vec::new();
    stdin.read_to_end(&mut wasm).map_err(|e| e.to_string())?;
    let engine = wasmtime::Engine::new(&settings::compiling()).map_err(|e| format!("{e:#}"))?;
    let code = engine.precompile_component(&wasm).map_err(|e| format!("{e:#}"))?;
    io::stdout().lock().write_all(&code).map_err(|e| e.to_string())
}

/// Limits this process: memory, CPU, no core dump, and no new files of any size.
fn restrict(memory: u64, cpu: u64) -> rustix::io::Result<()> {
    let both = |most| Rlimit { current: Some(most), maximum: Some(most) };
    setrlimit(Resource::As, both(memory))?;
    // One second more until the kernel kills: the soft limit gives the signal that says why.
    setrlimit(Resource::Cpu, Rlimit { current: Some(cpu), maximum: Some(cpu.saturating_add(1)) })?;
    setrlimit(Resource::Core, both(0))?;
    setrlimit(Resource::Fsize, both(0))
}
