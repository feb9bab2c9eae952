//! Where a frame is sent.

use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;

use crate::abi::TrackWay;
use crate::abi::hook_of;
use crate::interface::Interfaces;
use crate::module::Hook;

/// The way on which a frame joins the packets of its direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// As if it had come in by this interface, behind XDP: the network stack hands it on to a
    /// socket, or forwards or bridges it as it does the others.
    Arrives {
        /// Index of the interface.
        ifindex: u32,
        /// Its name.
        interface: String,
    },
    /// Out by this interface, through its queueing discipline.
    Leaves {
        /// Index of the interface.
        ifindex: u32,
        /// Its name.
        interface: String,
    },
}

impl Place {
    /// Where packets of the direction were counted.
    ///
    /// # Errors
    ///
    /// They were not, or the interface has gone, or their link-layer header is not known.
    pub(crate) fn of(way: &TrackWay, interfaces: &Interfaces) -> Result<Self> {
        let hook = way.hook.checked_sub(1).and_then(hook_of);
        let hook = hook.ok_or_else(|| anyhow!("no packet of this direction was counted here"))?;
        let ifindex = way.ifindex;
        let found = interfaces.by_index(ifindex).ok_or_else(|| {
            anyhow!("the interface of the last packet has gone: another packet must come first")
        })?;
        let interface = found.name.clone();
        if hook == Hook::TcEgress {
            if way.l2_len == 0 && !found.raw_ip {
                return Err(no_header(&interface));
            }
            return Ok(Self::Leaves { ifindex, interface });
        }
        if found.raw_ip {
            bail!(
                "{interface} has no Ethernet headers: the kernel takes no frame there that arrives"
            );
        }
        if way.l2_len == 0 {
            return Err(no_header(&interface));
        }
        Ok(Self::Arrives { ifindex, interface })
    }

    /// Name of the interface.
    pub(crate) fn interface(&self) -> &str {
        match self {
            Self::Arrives { interface, .. } | Self::Leaves { interface, .. } => interface,
        }
    }

    /// What sends it.
    pub(crate) fn how(&self) -> &'static str {
        match self {
            Self::Arrives { .. } => "live frame",
            Self::Leaves { .. } => "packet socket",
        }
    }
}

fn no_header(interface: &str) -> anyhow::Error {
    anyhow!("the link-layer header of packets at {interface} is not known")
}
