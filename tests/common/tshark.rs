//! tshark as a second decoder.
