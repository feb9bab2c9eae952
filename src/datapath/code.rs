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
                // What they do is not looked at.
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

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: Insn = insn(0x95, 0, 0, 0);

    const fn insn(code: u8, registers: u8, offset: i16, imm: i32) -> Insn {
        let (o, i) = (offset.to_le_bytes(), imm.to_le_bytes());
        Insn(u64::from_le_bytes([
            code, registers, o[0], o[1], i[0], i[1], i[2], i[3],
        ]))
    }

    /// `rN = imm`
    fn mov(register: u8, imm: u32) -> Insn {
        insn(0xb7, register, 0, imm as i32)
    }

    /// `rN += imm`
    fn add(register: u8, imm: i32) -> Insn {
        insn(0x07, register, 0, imm)
    }

    /// `if rN == imm goto`
    fn jump_if(register: u8, imm: i32, offset: i16) -> Insn {
        insn(0x15, register, offset, imm)
    }

    fn mark_is(what: Is) -> Insn {
        mov(0, 0x656d_7000 + what.0)
    }

    fn mark_jump(way: u32) -> Insn {
        mov(0, 0x656d_7200 + way)
    }

    /// What is left in r0 of a program of the instructions above.
    fn run(code: &Code) -> i64 {
        let mut registers = [0i64; 11];
        let mut at = 0isize;
        for _ in 0..1000 {
            let insn = code.insns[at as usize];
            let to = usize::from(insn.destination());
            at += 1;
            if let Some(imm) = insn.moves_imm() {
                registers[to] = imm.into();
            } else if let Some(imm) = insn.adds_imm() {
                registers[to] += i64::from(imm);
            } else {
                match insn.leads() {
                    Leads::Exit => return registers[0],
                    Leads::Always(by) => at += by,
                    Leads::Maybe(by) if registers[to] == i64::from(insn.imm()) => at += by,
                    _ => {}
                }
            }
        }
        panic!("does not end: {code:?}");
    }

    /// Adds 1 to r3 and goes on by way 0 if r3 is `at` then, else by way 1.
    fn step(at: i32) -> Vec<Insn> {
        vec![
            add(3, 1),
            jump_if(3, at, 4),
            mark_is(Is(Is::EMPTCP_IS_PASS.0 + 1)),
            Insn::jump(4),
            mark_jump(1),
            EXIT,
            mark_jump(0),
            EXIT,
            mov(0, 77),
            EXIT,
        ]
    }

    fn ways(matched: Option<usize>, missed: Option<usize>) -> Choices {
        let mut choices = Choices {
            jumps: [matched, missed, None],
            ..Choices::default()
        };
        if missed.is_none() {
            choices.set_way(Is::EMPTCP_IS_PASS, 1);
        }
        choices
    }

    #[test]
    fn steps_lead_to_each_other_and_what_is_not_reached_is_left_out() {
        let end = |result: u32| (vec![mov(0, result), EXIT], Choices::default());
        let steps = |first: i32| {
            let code = join(&[
                (step(first), ways(Some(1), Some(2))),
                (step(2), ways(Some(3), None)),
                end(22),
                end(33),
            ]);
            code.unwrap()
        };
        // The first matches, then the second; the first misses.
        assert_eq!((run(&steps(1)), run(&steps(9))), (33, 22));
        let code = steps(1);
        let jumps = code.insns.iter().filter(|i| i.is_jump()).count();
        assert_eq!(jumps, 0, "{code:?}");
        let marked = |i: &&Insn| i.moves_imm().is_some_and(|n| Mark::of(n).is_some());
        assert_eq!(code.insns.iter().find(marked), None, "{code:?}");
        // Two steps of two instructions, three ends of two.
        assert_eq!(code.insns.len(), 10, "{code:?}");
    }

    #[test]
    fn numbers_are_written_into_instructions() {
        let mut choices = Choices::default();
        choices.numbers[abi::NUMBER_COUNTER] = 4711;
        let mark = mov(0, 0x656d_7100 + abi::NUMBER_COUNTER as u32);
        let code = join(&[(vec![mark, EXIT], choices)]).unwrap();
        assert_eq!(run(&code), 4711);
    }

    #[test]
    fn loops_wide_instructions_and_functions_stay_whole() {
        let wide = [insn(0x18, 1, 0, 5), insn(0, 0, 0, 0)];
        let function = 5;
        let insns = vec![
            wide[0],
            wide[1],
            // Call of a function of the program.
            insn(0x85, 0x10, 0, 2),
            jump_if(0, 0, -2),
            EXIT,
            mov(0, 1),
            EXIT,
        ];
        let code = join(&[(insns.clone(), Choices::default())]).unwrap();
        assert_eq!(code.insns, insns);
        assert_eq!(code.functions, [(0, 0), (function, function)]);
        assert_eq!(code.from, (0..insns.len()).collect::<Vec<_>>());
        assert!(!Traits::of(&insns).keeps_pointers);
    }

    #[test]
    fn a_frame_lies_below_all_variables() {
        // *(u64 *)(r10 + place) = r1
        let store = |place: i16| insn(0x7b, 0x1a, place, 0);
        let steps = |variable: i16| {
            let first = vec![
                store(abi::FRAME.start),
                store(abi::FRAME.end - 8),
                mark_jump(0),
                EXIT,
            ];
            let second = vec![store(variable), EXIT];
            join(&[(first, ways(Some(1), None)), (second, Choices::default())])
        };
        let offsets = |code: Code| -> Vec<i16> {
            let stores = code.insns.into_iter().filter(|i| i.accesses_by(10));
            stores.map(Insn::offset).collect()
        };
        assert_eq!(offsets(steps(-20).unwrap()), [-56, -32, -20]);
        assert_eq!(offsets(steps(-480).unwrap()), [-512, -488, -480]);
        assert!(steps(-488).is_err());
    }

    #[test]
    fn helpers_that_may_change_a_packet_void_pointers() {
        let calls = |helper| Traits::of(&[insn(0x85, 0, 0, helper), EXIT]).keeps_pointers;
        // map_lookup_elem, ktime_get_ns; skb_pull_data, l4_csum_replace, xdp_adjust_tail.
        assert_eq!(
            [1, 5, 39, 11, 65].map(calls),
            [true, true, false, false, false]
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let circle = vec![Insn::jump(-1)];
        assert!(join(&[(circle, Choices::default())]).is_err());
        let outside = vec![Insn::jump(5)];
        assert!(join(&[(outside, Choices::default())]).is_err());
        let no_step = (vec![mark_jump(0), EXIT], ways(Some(7), None));
        assert!(join(&[no_step]).is_err());
    }
}
