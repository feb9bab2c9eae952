//! The usual mistakes: how the verifier words them, why, and what helps.
//!
//! docs/writing-modules.md has the same table; a test compares them.

use std::io;

use super::log::Log;

/// A usual mistake.
#[derive(Debug)]
pub(super) struct Cause {
    /// One word for the documentation and for tests.
    pub(super) name: &'static str,
    /// Parts of messages of the verifier, of any kernel; all words of one entry must be there.
    says: &'static [&'static [&'static str]],
    /// What is usually wrong.
    pub(super) why: &'static str,
    /// What usually helps.
    pub(super) cure: &'static str,
}

/// The first that fits is taken.
pub(super) const CAUSES: &[Cause] = &[
    // Which of the three is told by whether there is such an offset, and by the bytes checked.
    Cause {
        name: "packet_unchecked",
        says: &[&["invalid access to packet", "(id=0,", "r=0)"]],
        why: "bytes of the packet are read that nobody has checked to be there",
        cure: "before the access: `if ((void *)(p + 1) > ctx_data_end(ctx)) return …;`, with the \
               same pointer",
    },
    Cause {
        name: "offset_unbounded",
        says: &[
            &["math between pkt pointer and register with unbounded"],
            &["makes pkt pointer be out of bounds"],
            &["invalid access to packet", "r=0)"],
        ],
        why: "an offset that the packet gives has no bound that the verifier knows",
        cure: "`off = emptcp_forget(off) & EMPTCP_OFF_MASK;`, add it, then compare with \
               `ctx_data_end(ctx)`",
    },
    Cause {
        name: "packet_beyond",
        says: &[&["invalid access to packet"]],
        why: "the access reaches behind the bytes that were checked",
        cure: "check as many bytes as are accessed: offset and size of the access, not less",
    },
    Cause {
        name: "map_value_null",
        says: &[&["_or_null'"], &["_or_null prohibited, null-check"]],
        why: "a look-up that may find nothing is used without a test",
        cure: "`if (!value) return …;` right behind the look-up",
    },
    Cause {
        name: "endless_loop",
        says: &[&["infinite loop detected"], &["back-edge from insn"]],
        why: "a loop comes round with nothing changed: nothing ends it",
        cure: "count its rounds, up to a constant",
    },
    Cause {
        name: "too_complex",
        says: &[
            &["BPF program is too large"],
            &["jumps is too complex"],
            &["too many states"],
        ],
        why: "the verifier walks each round of a loop, and each way through the branches, on its \
              own; there are too many (a million instructions)",
        cure: "fewer rounds, or `emptcp_forget()` on what changes in each round, so that ways join",
    },
    Cause {
        name: "stack_size",
        says: &[
            &["combined stack size"],
            &["stack size", "Too large"],
            &["call stack", "too deep"],
            &["the call stack of"],
        ],
        why: "the functions that call each other take more than 512 bytes of stack together",
        cure: "keep large data in a map (BPF_MAP_TYPE_PERCPU_ARRAY), or less of it",
    },
    Cause {
        name: "uninitialised",
        says: &[
            &["!read_ok"],
            &["invalid read from stack"],
            &["invalid indirect read from stack"],
        ],
        why: "something is read that no instruction has written on this way",
        cure: "give the variable a value where it is declared; of a structure, the padding too \
               (`= {}`)",
    },
    Cause {
        name: "stack_bound",
        says: &[
            &["to stack"],
            &["from stack"],
            &["invalid stack"],
            &["access to stack"],
            &["variable stack access"],
            &["math between fp pointer and register with unbounded"],
            &["makes fp pointer be out of bounds"],
            &["stack", "out of range"],
        ],
        why: "an access to an array on the stack may lie outside of it",
        cure: "mask or compare the index right before: `array[i & (SIZE - 1)]`, SIZE a power of two",
    },
    // Which of the two is told by the helpers on the way.
    Cause {
        name: "pointer_void",
        says: &[
            &["invalid mem access 'scalar'"],
            &["invalid mem access 'inv'"],
        ],
        why: "a pointer into the packet is used behind a helper that may move the packet",
        cure: "take it again from `ctx_data(ctx)`, and check it again",
    },
    Cause {
        name: "no_pointer",
        says: &[
            &["invalid mem access 'scalar'"],
            &["invalid mem access 'inv'"],
        ],
        why: "a number is used as a pointer, or a pointer has passed through arithmetic that the \
              verifier does not follow",
        cure: "take addresses from `ctx_data(ctx)`, look-ups and variables only; follow pointers of \
               the kernel with bpf_probe_read_kernel() where the program type has it",
    },
    Cause {
        name: "helper_unavailable",
        says: &[
            &["unknown func"],
            &["cannot use helper"],
            &["invalid func"],
            &["helper call is not allowed"],
            &["calling kernel function", "is not allowed"],
        ],
        why: "the helper is not for programs of this hook, or newer than this kernel",
        cure: "name the hooks that have it (EMPTCP_HOOKS_TC, EMPTCP_HOOKS_XDP), and the oldest \
               kernel as `since`",
    },
    Cause {
        name: "read_only",
        says: &[
            &["write into map forbidden"],
            &["cannot write into", "rdonly"],
            &["write to rdonly"],
        ],
        why: "parameters and other constants cannot be written",
        cure: "copy what changes into a variable; what must stay goes into a map of the module",
    },
    Cause {
        name: "map_bound",
        says: &[
            &["invalid access to map value"],
            &["math between map_value pointer and register with unbounded"],
            &["unbounded memory access, make sure to bounds check"],
            &["outside of the allowed memory range"],
            &["outside of the array range"],
            &["min value is negative, either use unsigned index"],
            &["makes map_value pointer be out of bounds"],
        ],
        why: "an access may lie outside of the map's value; arithmetic behind a check loses the bound",
        cure: "mask or compare the index last, right before the access, as an unsigned number",
    },
    Cause {
        name: "size_unbounded",
        says: &[
            &["unbounded memory access, use 'var &= const'"],
            &["min value is negative, either use unsigned or"],
            &["invalid zero-sized read"],
            &["invalid access to memory"],
        ],
        why: "a helper is given a length that may be zero, negative or larger than the memory",
        cure: "compare the length with 1 and with the size right before the call, as an unsigned \
               number",
    },
    Cause {
        name: "pointer_arithmetic",
        says: &[
            &["pointer arithmetic"],
            &["on pointer prohibited"],
            &["pointer += pointer"],
            &["arithmetic prohibited"],
            &["from scalar prohibited"],
            &["tried to subtract pointer"],
            &["partial copy of pointer"],
            &["dereference of modified ctx"],
        ],
        why: "a pointer takes part in arithmetic that makes no pointer",
        cure: "add numbers to pointers only; the difference of two packet pointers is a number",
    },
    Cause {
        name: "reference_leak",
        says: &[
            &["Unreleased reference"],
            &["reference leak"],
            &["would lead to reference leak"],
        ],
        why: "what a helper has lent (a socket, a record of a ring buffer) is not given back on \
              every way",
        cure: "release or submit it before each return, errors included",
    },
    Cause {
        name: "context_access",
        says: &[&["invalid bpf_context access"]],
        why: "a member of the context that this hook does not have, or that must not be written",
        cure: "use the `ctx_…` functions of emptcp/ctx.h; write whole members only",
    },
    Cause {
        name: "argument",
        says: &[&["type=", "expected="], &["arg#", "expected"]],
        why: "a helper is given something of another type than it takes",
        cure: "compare the call with bpf-helpers(7): pointers to the stack, to a map's value or to \
               checked bytes of the packet",
    },
];

impl Cause {
    /// The cause that a log tells, and the message that told it.
    pub(super) fn of<'a>(log: &Log<'a>, error: &io::Error) -> Option<(&'static Cause, &'a str)> {
        for message in &log.messages {
            let cause = CAUSES.iter().find(|cause| {
                let fits = |words: &&[&str]| words.iter().all(|w| message.contains(w));
                cause.says.iter().any(fits) && (cause.name != "pointer_void" || log.packet_moved())
            });
            if let Some(cause) = cause {
                return Some((cause, message));
            }
        }
        // Before Linux 6.4 a long log ends where its buffer did, without the verdict.
        if error.raw_os_error() == Some(nix::libc::E2BIG) {
            let cause = CAUSES.iter().find(|c| c.name == "too_complex")?;
            return Some((cause, "Argument list too long"));
        }
        None
    }
}
