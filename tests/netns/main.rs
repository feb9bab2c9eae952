//! Policies in force between network namespaces. Needs root, and the feature
//! `failpoints`.

#![allow(clippy::unwrap_used)]

mod answers;
mod capture;
mod cgroups;
mod chains;
mod close;
mod doctor;
mod edits;
mod exchange;
mod firewall;
mod foreign;
mod full;
mod grow;
mod interfaces;
mod killed;
mod least;
mod life;
mod loaded;
mod many;
mod monitor;
mod mptcp;
mod others;
mod outside;
mod paced;
mod paths;
mod police;
mod raw;
mod reader;
mod record;
mod redirect;
mod refusals;
mod replace;
mod replay;
mod restored;
mod rig;
mod rows;
mod run;
mod shared;
mod soak;
mod tables;
mod tenant;
mod traffic;
mod uplinks;
mod views;
