//! The builder of packets and the fixtures, compared with what tshark finds.

use std::path::Path;

use emptcp_test::fixtures;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_fixture_builds() {
    let paths = fixtures::paths(&root().join("tests/modules")).unwrap();
    assert!(!paths.is_empty());
    for path in paths {
        let cases = fixtures::load(&path).unwrap_or_else(|e| panic!("{e}"));
        assert!(cases.iter().all(|case| !case.expand().is_empty()));
    }
}
