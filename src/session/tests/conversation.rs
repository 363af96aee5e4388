//! What a message builds upon.

use super::*;

#[test]
fn what_was_said_is_told_to_its_own_principal_alone() {
    let house = House::new(None);
    let id = house.send("", "one");
    house.wait(id);
    let said = house.hub.history("owner", id).unwrap();
    let wanted = r#"{"role":"user","content":"one"},{"role":"assistant","content":"one"}"#;
    assert_eq!(said, [wanted]);
    let denied = house.hub.history("other", id).unwrap_err();
    assert_eq!(denied.kind(), std::io::ErrorKind::NotFound);
}
