//! What events tell of the things that selectors look at: the vocabulary of `EMPTCP_EVENT_FACT`
//! (`include/emptcp/module.h`), by which a selector says what its parameters mean there.

use super::Type;

/// Something that an event may tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Source address.
    Src,
    /// Destination address.
    Dst,
    /// Source port.
    Sport,
    /// Destination port.
    Dport,
    /// Tokens of the connection: of its server, of its client.
    Token,
    /// Whether the client or the server sends from the source.
    Sender,
    /// What began the subflow.
    Kind,
    /// Number of the subflow in its connection.
    Index,
    /// Subflows that the connection has.
    Count,
    /// Whether an end asks for the subflow to be backup.
    Backup,
    /// Why the connection went on as plain TCP.
    Fallback,
    /// Version of Multipath TCP.
    Version,
    /// Address ids.
    AddrId,
    /// The address in an ADD_ADDR.
    Announced,
    /// Its port.
    AnnouncedPort,
    /// Whether it is the answer to one.
    Echo,
    /// Payload of the subflow without what was sent again, bytes.
    SubflowBytes,
    /// The same of the connection.
    ConnBytes,
    /// Since it began, nanoseconds.
    Age,
}

/// What values of a fact are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Address,
    Port,
    Token,
    Number,
    Bytes,
    Time,
    Word,
    Bool,
}

impl Fact {
    const ALL: [(&str, Fact, Class); 19] = [
        ("src", Fact::Src, Class::Address),
        ("dst", Fact::Dst, Class::Address),
        ("sport", Fact::Sport, Class::Port),
        ("dport", Fact::Dport, Class::Port),
        ("token", Fact::Token, Class::Token),
        ("sender", Fact::Sender, Class::Word),
        ("kind", Fact::Kind, Class::Word),
        ("index", Fact::Index, Class::Number),
        ("count", Fact::Count, Class::Number),
        ("backup", Fact::Backup, Class::Bool),
        ("fallback", Fact::Fallback, Class::Word),
        ("version", Fact::Version, Class::Word),
        ("addr_id", Fact::AddrId, Class::Number),
        ("announced", Fact::Announced, Class::Address),
        ("announced_port", Fact::AnnouncedPort, Class::Port),
        ("echo", Fact::Echo, Class::Word),
        ("subflow_bytes", Fact::SubflowBytes, Class::Bytes),
        ("conn_bytes", Fact::ConnBytes, Class::Bytes),
        ("age", Fact::Age, Class::Time),
    ];

    fn class(self) -> Class {
        let found = Self::ALL.iter().find(|(_, fact, _)| *fact == self);
        found.map_or(Class::Word, |(_, _, class)| *class)
    }
}

/// What a parameter of a selector is for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventFact {
    /// The fact is this, or one of these.
    Is(Fact),
    /// The fact is no less.
    Least(Fact),
    /// The fact is no more.
    Most(Fact),
    /// Of what the others are: `connection`, `subflow`.
    Of,
    /// Which way the others count: `both`, `up`, `down`, `packet`, `reply`.
    Direction,
    /// The others may also hold with source and destination exchanged.
    Either,
}

impl EventFact {
    /// Whether a parameter of this type can say that.
    pub fn fits(self, ty: &Type) -> bool {
        let word = |ty: &Type| matches!(ty, Type::Enum { .. } | Type::Set { .. });
        let one = |class: Class, ty: &Type| match class {
            Class::Address => matches!(ty, Type::Addr | Type::Prefix),
            Class::Port => matches!(ty, Type::Port | Type::PortRange),
            Class::Token => *ty == Type::Token,
            Class::Number => matches!(ty, Type::Uint(_)),
            Class::Bytes => *ty == Type::Bytes,
            Class::Time => *ty == Type::Time,
            Class::Word => word(ty),
            Class::Bool => *ty == Type::Bool,
        };
        match (self, ty) {
            (Self::Is(fact), Type::List { of, .. }) => one(fact.class(), of),
            (Self::Is(fact), ty) => one(fact.class(), ty),
            (Self::Least(fact) | Self::Most(fact), ty) => {
                let measured = matches!(fact.class(), Class::Number | Class::Bytes | Class::Time);
                measured && one(fact.class(), ty)
            }
            (Self::Of | Self::Direction, ty) => matches!(ty, Type::Enum { .. }),
            (Self::Either, ty) => *ty == Type::Bool,
        }
    }
}

impl std::str::FromStr for EventFact {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let qualifier = match text {
            "of" => Some(Self::Of),
            "direction" => Some(Self::Direction),
            "either" => Some(Self::Either),
            _ => None,
        };
        if let Some(qualifier) = qualifier {
            return Ok(qualifier);
        }
        let (name, bound) = match text.split_once(':') {
            Some((name, bound)) => (name, Some(bound)),
            None => (text, None),
        };
        let found = Fact::ALL.iter().find(|(known, _, _)| *known == name);
        match (found, bound) {
            (Some((_, fact, _)), None) => Ok(Self::Is(*fact)),
            (Some((_, fact, _)), Some("min")) => Ok(Self::Least(*fact)),
            (Some((_, fact, _)), Some("max")) => Ok(Self::Most(*fact)),
            _ => Err(format!("no event tells {text:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_by_name() {
        for (name, fact, _) in Fact::ALL {
            assert_eq!(name.parse(), Ok(EventFact::Is(fact)));
            assert_eq!(format!("{name}:min").parse(), Ok(EventFact::Least(fact)));
        }
        assert_eq!("either".parse(), Ok(EventFact::Either));
        for wrong in ["", "sauce", "index:mean", "index:", ":min", "of:min"] {
            let parsed: Result<EventFact, _> = wrong.parse();
            assert!(parsed.is_err(), "{wrong}");
        }
    }

    #[test]
    fn types_that_fit() {
        let list = |of: Type| Type::List {
            of: Box::new(of),
            max: 4,
            items_offset: 4,
            item_size: 4,
            table: None,
        };
        let fits = |text: &str, ty: Type| text.parse::<EventFact>().unwrap().fits(&ty);
        assert!(fits("src", list(Type::Prefix)) && fits("dst", Type::Addr));
        assert!(!fits("src", Type::Port) && !fits("src", list(Type::PortRange)));
        assert!(fits("age:max", Type::Time) && !fits("age:max", Type::Uint(8)));
        assert!(!fits("kind:min", Type::Uint(1)) && !fits("index:min", list(Type::Uint(1))));
        assert!(fits("either", Type::Bool) && !fits("of", Type::Bool));
    }
}
