//! Policies in force between network namespaces. Needs root, and the feature
//! `failpoints`.

mod exchange;
mod foreign;
mod killed;
mod others;
mod raw;
mod rig;
mod traffic;
