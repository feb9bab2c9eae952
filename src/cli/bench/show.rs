//! The tables of chains and modules.

use super::ChainCost;
use super::ModuleCost;
use super::table;

fn three(numbers: [u32; 3]) -> String {
    numbers.map(|n| n.to_string()).join(" ")
}

pub(super) fn print(counters: bool, chains: &[ChainCost], modules: &[ModuleCost]) {
    let mut all = table(
        &[
            "HOOK", "SHAPE", "COUNTERS", "CHAIN", "MONOLITH", "FLOOR", "RATIO", "NET", "FASTEST",
            "STEPS", "PACKET",
        ],
        &[3, 4, 5, 6, 7, 8],
    );
    for c in chains {
        all.add_row([
            c.hook.to_owned(),
            c.shape.clone(),
            if counters { "yes" } else { "no" }.to_owned(),
            format!("{:.0}", c.ns),
            format!("{:.0}", c.monolithic_ns),
            format!("{:.0}", c.floor_ns),
            format!("{:.2}", c.ratio),
            format!("{:.2}", c.ratio_net),
            three(c.fastest),
            c.steps.join(" "),
            c.packet.to_owned(),
        ]);
        if let Some(u) = &c.uncounted {
            all.add_row([
                c.hook.to_owned(),
                c.shape.clone(),
                "no".to_owned(),
                format!("{:.0}", u.ns),
                format!("{:.0}", u.monolithic_ns),
                format!("{:.0}", c.floor_ns),
                format!("{:.2}", u.ratio),
                format!("{:.2}", u.ratio_net),
                three(u.fastest),
                String::new(),
                String::new(),
            ]);
        }
    }
    println!("{all}\n");
    let mut single = table(
        &[
            "MODULE", "KIND", "HOOK", "ALONE", "ENTRY", "FLOOR", "STEP", "PACKET",
        ],
        &[3, 4, 5, 6],
    );
    for m in modules {
        single.add_row([
            m.name.clone(),
            m.kind.to_owned(),
            m.hook.to_owned(),
            format!("{:.0}", m.ns),
            format!("{:.0}", m.entry_ns),
            format!("{:.0}", m.floor_ns),
            format!("{:.0}", m.ns - m.entry_ns),
            if m.works { m.packet } else { "(nothing to do)" }.to_owned(),
        ]);
    }
    println!("{single}");
}
