//! From the instructions of modules to those of one program: what differs from
//! step to step is written in (`include/emptcp/step.h` has the marks), steps that
//! follow each other are joined by jumps, and what nobody reaches is left out.

use std::collections::BTreeSet;

use crate::abi;
use crate::abi::Is;
use crate::abi::Mark;
use crate::insn::FRAME_POINTER;
use crate::insn::Insn;
use crate::insn::Leads;

/// Bytes of stack that a program has.
const STACK: i16 = 512;

/// Helpers that leave pointers into the packet as they are: look-ups, updates and deletions of
/// maps, clocks, random numbers, numbers of CPUs, tail calls, hashes, ring buffers, lengths. All
/// others may make them void (bpf_helper_changes_pkt_data() of the kernel).
const KEEP_POINTERS: [i32; 13] = [1, 2, 3, 5, 7, 8, 12, 34, 125, 131, 132, 133, 188];

/// What a step's instructions say of themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traits {
    /// No instruction makes pointers into the packet void.
    pub(super) keeps_pointers: bool,
    /// Calls functions of its own.
    pub(super) calls_functions: bool,
    /// Lowest byte of the stack that it may use, below the frame pointer: 0 or negative.
    stack: i16,
}

impl Traits {
    pub(super) fn of(insns: &[Insn]) -> Self {
        let mut traits = Self {
            keeps_pointers: true,
            ..Self::default()
        };
        for insn in whole(insns).map(|at| insns[at]) {
            if insn.helper().is_some_and(|h| !KEEP_POINTERS.contains(&h))
                || insn.calls_kernel_function()
            {
                traits.keeps_pointers = false;
            }
            if matches!(insn.leads(), Leads::Calls(_)) {
                traits.calls_functions = true;
                traits.keeps_pointers = false;
            }
            // A sum may be the address of a variable: every negative one is taken for that.
            let low = if insn.accesses_by(FRAME_POINTER) {
                insn.offset()
            } else {
                insn.adds_imm().map_or(0, |n| n.clamp(-512, 0) as i16)
            };
            traits.stack = traits.stack.min(low);
        }
        traits
    }
}

/// Positions of instructions, without the second halves of wide ones.
fn whole(insns: &[Insn]) -> impl Iterator<Item = usize> {
    let mut wide = false;
    insns.iter().enumerate().filter_map(move |(at, insn)| {
        let second = wide;
        wide = !second && insn.is_wide();
        (!second).then_some(at)
    })
}

/// What the loader decides for one step.
#[derive(Clone, Debug, Default)]
pub(super) struct Choices {
    /// Bits by [`Is`].
    pub(super) is: u32,
    /// By `enum emptcp_number`.
    pub(super) numbers: [u32; abi::NUMBERS],
    /// For each way, the place in this program of the step to which it leads.
    pub(super) jumps: [Option<usize>; abi::WAYS],
}

impl Choices {
    pub(super) fn set(&mut self, what: Is, yes: bool) {
        if yes {
            self.is |= 1 << what.0;
        }
    }

    /// `what`: one of those that go with a way.
    pub(super) fn set_way(&mut self, what: Is, way: usize) {
        self.is |= 1 << (what.0 + way as u32);
    }
}

/// A program, and where its instructions come from.
#[derive(Debug, Default)]
pub(super) struct Code {
    pub(super) insns: Vec<Insn>,
    /// For each instruction its place among those of the steps, one after the other.
    pub(super) from: Vec<usize>,
    /// Where functions begin: among the steps' instructions, and here.
    pub(super) functions: Vec<(usize, usize)>,
}

/// Joins steps: instructions, with their maps in place, and choices. The first one is where the
/// program begins.
///
/// # Errors
///
/// A jump that is too far, no room on the stack, a way without a step.
pub(super) fn join(steps: &[(Vec<Insn>, Choices)]) -> Result<Code, &'static str> {
    let mut insns: Vec<Insn> = Vec::new();
    let mut starts = Vec::new();
    let mut stack = 0;
    for (own, _) in steps {
        starts.push(insns.len());
        insns.extend(own);
        stack = stack.min(Traits::of(own).stack);
    }
    let base = (stack & !7) - (abi::FRAME.end - abi::FRAME.start);
    let uses_frame = insns.iter().any(|i| frame_offset(*i).is_some()) && steps.len() > 1;
    if uses_frame && base < -STACK {
        return Err("the stack has no room for what joined steps hand on");
    }
    for (step, (own, choices)) in steps.iter().enumerate() {
        let from = starts[step];
        for at in whole(own).map(|at| at + from) {
            write(&mut insns, at, choices, &starts)?;
            if let Some(offset) = frame_offset(insns[at]) {
                insns[at] = insns[at].with_offset(offset - abi::FRAME.start + base);
            }
        }
    }
    Layout::new(&insns).run()
}

fn frame_offset(insn: Insn) -> Option<i16> {
    let offset = insn.offset();
    (insn.accesses_by(FRAME_POINTER) && abi::FRAME.contains(&offset)).then_some(offset)
}

/// Writes the choices into an instruction that is marked.
fn write(
    insns: &mut [Insn],
    at: usize,
    choices: &Choices,
    starts: &[usize],
) -> Result<(), &'static str> {
    let Some(mark) = insns[at].moves_imm().and_then(Mark::of) else {
        return Ok(());
    };
    let next = insns.get(at + 1).copied();
    match mark {
        Mark::Number(which) => insns[at] = insns[at].with_imm(choices.numbers[which] as i32),
        Mark::Is(what) if next.is_some_and(Insn::is_jump) => {
            insns[at] = Insn::NOTHING;
            if choices.is & 1 << what == 0 {
                insns[at + 1] = Insn::NOTHING;
            }
        }
        Mark::Jump(way) if next.is_some_and(Insn::is_exit) => {
            // Where the step leads elsewhere nobody comes here.
            if let Some(step) = choices.jumps[way] {
                let start = starts.get(step).ok_or("a way leads to no step")?;
                let distance = *start as isize - (at as isize + 2);
                let distance = distance.try_into().map_err(|_| TOO_FAR)?;
                insns[at] = Insn::NOTHING;
                insns[at + 1] = Insn::jump(distance);
            }
        }
        _ => {}
    }
    Ok(())
}

const TOO_FAR: &str = "the joined steps are too long for a jump";

const OUTSIDE: &str = "a jump leads out of the program";

/// Puts instructions into the order in which they run, so that what the loader has chosen costs no
/// jumps, and leaves out what no way leads to: the kernel takes that for an error.
struct Layout<'a> {
    insns: &'a [Insn],
    /// Places in the program.
    placed: Vec<Option<usize>>,
    code: Code,
    /// Jumps in the program, with the instructions where they lead.
    jumps: Vec<(usize, usize)>,
    /// Functions that are called, not yet laid out.
    called: BTreeSet<usize>,
}

impl<'a> Layout<'a> {
    fn new(insns: &'a [Insn]) -> Self {
        Self {
            insns,
            placed: vec![None; insns.len()],
            code: Code::default(),
            jumps: Vec::new(),
            called: BTreeSet::from([0]),
        }
    }

    fn run(mut self) -> Result<Code, &'static str> {
        // What a program calls lies behind it.
        while let Some(start) = self.called.pop_first() {
            if self.code.functions.iter().all(|(from, _)| *from != start) {
                self.code.functions.push((start, self.code.insns.len()));
                self.function(start)?;
            }
        }
        for (at, to) in &self.jumps {
            let to = self.placed[*to].ok_or(OUTSIDE)? as isize;
            let insn = &mut self.code.insns[*at];
            *insn = insn.leading(to - (*at as isize + 1)).ok_or(TOO_FAR)?;
        }
        Ok(self.code)
    }

    fn function(&mut self, start: usize) -> Result<(), &'static str> {
        let mut todo = vec![start];
        while let Some(at) = todo.pop() {
            let mut at = self.real(at)?;
            if self.placed[at].is_some() {
                continue;
            }
            loop {
                if self.placed[at].is_some() {
                    self.jumps.push((self.code.insns.len(), at));
                    self.push(Insn::jump(0), at);
                    break;
                }
                let insn = self.insns[at];
                self.placed[at] = Some(self.code.insns.len());
                match insn.leads() {
                    Leads::Next | Leads::Exit => {}
                    Leads::Always(_) => return Err(OUTSIDE),
                    Leads::Maybe(distance) => {
                        let to = self.real(target(at, distance))?;
                        self.jumps.push((self.code.insns.len(), to));
                        todo.push(to);
                    }
                    Leads::Calls(distance) => {
                        let to = target(at, distance);
                        self.jumps.push((self.code.insns.len(), to));
                        self.called.insert(to);
                    }
                }
                self.push(insn, at);
                if insn.leads() == Leads::Exit {
                    break;
                }
                if insn.is_wide() {
                    let second = *self.insns.get(at + 1).ok_or(OUTSIDE)?;
                    self.push(second, at + 1);
                    at += 1;
                }
                at = self.real(at + 1)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, insn: Insn, from: usize) {
        self.code.insns.push(insn);
        self.code.from.push(from);
    }

    /// The first instruction from here on that is no jump.
    fn real(&self, mut at: usize) -> Result<usize, &'static str> {
        for _ in 0..self.insns.len() {
            match self.insns.get(at).ok_or(OUTSIDE)?.leads() {
                Leads::Always(distance) => at = target(at, distance),
                _ => return Ok(at),
            }
        }
        Err("jumps lead in a circle")
    }
}

fn target(at: usize, distance: isize) -> usize {
    at.wrapping_add_signed(distance + 1)
}
