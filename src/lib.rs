//! Programmable Multipath TCP on stock Linux kernels.
