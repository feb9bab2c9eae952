//! Instructions of BPF (`struct bpf_insn`), as far as the loader reads and writes them.

/// An instruction as the kernel takes it: 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Insn(pub(crate) u64);

/// `BPF_LD | BPF_DW | BPF_IMM`: loads 64 bits, in two instructions.
const LD_IMM64: u8 = 0x18;
/// Source register of a load that stands for a map.
const PSEUDO_MAP_FD: u8 = 1;
/// Source register of a load that stands for a place in a map's value.
const PSEUDO_MAP_VALUE: u8 = 2;
/// Source register of a load that stands for a function of the program.
const PSEUDO_FUNC: u8 = 4;
/// Source register of a call of a function of the program.
const PSEUDO_CALL: u8 = 1;

const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// `BPF_JMP | BPF_JA`: 16 bits of offset.
const JA: u8 = 0x05;
/// `BPF_JMP32 | BPF_JA`: 32 bits of offset.
const JA32: u8 = 0x06;
/// `r = imm`, 64 and 32 bits.
const MOV: [u8; 2] = [0xb7, 0xb4];

/// Register of the frame pointer.
pub(crate) const FRAME_POINTER: u8 = 10;

/// Where an instruction can lead, beside the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leads {
    /// Nowhere else.
    Next,
    /// Nowhere at all.
    Exit,
    /// There, and not on.
    Always(isize),
    /// There, or on; the distance counts from the next instruction.
    Maybe(isize),
    /// To a function of the program, and on.
    Calls(isize),
}

impl Insn {
    /// `goto +0`, which the kernel takes out of a program.
    pub(crate) const NOTHING: Self = Self::new(JA, 0, 0, 0);

    /// The registers are those of the byte, destination in the low half.
    const fn new(code: u8, registers: u8, offset: i16, imm: i32) -> Self {
        let o = offset.to_ne_bytes();
        let i = imm.to_ne_bytes();
        Self(u64::from_ne_bytes([
            code, registers, o[0], o[1], i[0], i[1], i[2], i[3],
        ]))
    }

    /// A program that does nothing but return a number of 32 bits.
    pub(crate) const fn returns(number: i32) -> [Self; 2] {
        [Self::new(MOV[0], 0, 0, number), Self::new(EXIT, 0, 0, 0)]
    }

    /// A jump over so many instructions.
    pub(crate) fn jump(offset: i16) -> Self {
        Self::new(JA, 0, offset, 0)
    }

    fn code(self) -> u8 {
        self.0.to_ne_bytes()[0]
    }

    fn registers(self) -> [u8; 2] {
        let both = self.0.to_ne_bytes()[1];
        // Nibbles are swapped on big-endian machines.
        if cfg!(target_endian = "little") {
            [both & 15, both >> 4]
        } else {
            [both >> 4, both & 15]
        }
    }

    /// Number of the destination register.
    pub(crate) fn destination(self) -> u8 {
        self.registers()[0]
    }

    fn source(self) -> u8 {
        self.registers()[1]
    }

    /// The 16-bit offset.
    pub(crate) fn offset(self) -> i16 {
        let b = self.0.to_ne_bytes();
        i16::from_ne_bytes([b[2], b[3]])
    }

    /// The same with another offset.
    pub(crate) fn with_offset(self, offset: i16) -> Self {
        let mut b = self.0.to_ne_bytes();
        b[2..4].copy_from_slice(&offset.to_ne_bytes());
        Self(u64::from_ne_bytes(b))
    }

    /// The 32-bit immediate.
    pub(crate) fn imm(self) -> i32 {
        let b = self.0.to_ne_bytes();
        i32::from_ne_bytes([b[4], b[5], b[6], b[7]])
    }

    /// The same with another immediate.
    pub(crate) fn with_imm(self, imm: i32) -> Self {
        let mut b = self.0.to_ne_bytes();
        b[4..8].copy_from_slice(&imm.to_ne_bytes());
        Self(u64::from_ne_bytes(b))
    }

    /// Whether this is the first half of a 16-byte instruction.
    pub(crate) fn is_wide(self) -> bool {
        self.code() == LD_IMM64
    }

    /// `Some(value?)` for the first half of a load of a map or of a place in its value.
    pub(crate) fn loads_map(self) -> Option<bool> {
        match (self.code(), self.source()) {
            (LD_IMM64, PSEUDO_MAP_FD) => Some(false),
            (LD_IMM64, PSEUDO_MAP_VALUE) => Some(true),
            _ => None,
        }
    }

    /// The number that goes into a register as it is.
    pub(crate) fn moves_imm(self) -> Option<i32> {
        MOV.contains(&self.code()).then(|| self.imm())
    }

    /// Adds a number to a register, 64 bits.
    pub(crate) fn adds_imm(self) -> Option<i32> {
        (self.code() == 0x07).then(|| self.imm())
    }

    /// Number of the kernel's helper that is called.
    pub(crate) fn helper(self) -> Option<i32> {
        (self.code() == CALL && self.source() == 0).then(|| self.imm())
    }

    /// A call of a kernel function (kfunc).
    pub(crate) fn calls_kernel_function(self) -> bool {
        self.code() == CALL && self.source() == 2
    }

    /// Whether it is an unconditional jump.
    pub(crate) fn is_jump(self) -> bool {
        matches!(self.code(), JA | JA32)
    }

    /// Whether it ends the program.
    pub(crate) fn is_exit(self) -> bool {
        self.code() == EXIT
    }

    /// Reads or writes memory by way of this register.
    pub(crate) fn accesses_by(self, register: u8) -> bool {
        match self.code() & 7 {
            // BPF_LDX
            1 => self.source() == register,
            // BPF_ST, BPF_STX
            2 | 3 => self.destination() == register,
            _ => false,
        }
    }

    /// Where it leads.
    pub(crate) fn leads(self) -> Leads {
        let class = self.code() & 7;
        match self.code() {
            EXIT => Leads::Exit,
            JA => Leads::Always(self.offset().into()),
            JA32 => Leads::Always(self.imm() as isize),
            CALL if self.source() == PSEUDO_CALL => Leads::Calls(self.imm() as isize),
            LD_IMM64 if self.source() == PSEUDO_FUNC => Leads::Calls(self.imm() as isize),
            CALL => Leads::Next,
            _ if class == JMP || class == JMP32 => Leads::Maybe(self.offset().into()),
            _ => Leads::Next,
        }
    }

    /// The same, leading elsewhere; `None` where the offset is too far for it.
    pub(crate) fn leading(self, distance: isize) -> Option<Self> {
        match self.leads() {
            Leads::Next | Leads::Exit => Some(self),
            Leads::Calls(_) => Some(self.with_imm(distance.try_into().ok()?)),
            Leads::Always(_) if self.code() == JA32 => {
                Some(self.with_imm(distance.try_into().ok()?))
            }
            Leads::Always(_) | Leads::Maybe(_) => Some(self.with_offset(distance.try_into().ok()?)),
        }
    }
}
