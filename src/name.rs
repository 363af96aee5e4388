//! The gateway's name: where it comes from and what is named after it.

use std::ffi::{OsStr, OsString};
use std::fmt;

/// The most bytes in a name; with its fixed parts a unit's name stays far below systemd's 255.
const MAX_NAME: usize = 64;

/// What the default gateway's files are called.
const DEFAULT: &str = "default";
/// Names of the binary that stand for no name of a gateway.
const OWN_NAMES: [&str; 2] = ["hermes-gateway", "hermes"];

/// The variable by which a gateway's children know it. `HERMES_PROFILE` is Hermes Agent's own too, and
/// may say something else to an agent.
pub const OWN_VARIABLE: &str = "HERMES_GATEWAY_PROFILE";

/// A gateway's name, `^[a-z0-9][a-z0-9_-]{0,63}$`, or the default one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(Option<String>);

impl Name {
    /// Settles the name: `-p NAME`, else what the binary was called by (an alias or symlink), else the
    /// first of these variables that says something, else the default one.
    ///
    /// # Errors
    /// One line that says which of them is no name, and the rule.
    pub fn resolve(
        profile: Option<&str>,
        called_by: Option<&OsStr>,
        environment: &[(&str, OsString)],
    ) -> Result<Name, String> {
        if let Some(name) = profile {
            return Name::parse(name).map_err(|e| format!("--profile {e}"));
        }
        let called_by = called_by.map(std::path::Path::new).and_then(|p| p.file_name());
        if let Some(name) = called_by.filter(|n| !OWN_NAMES.iter().any(|own| n == own)) {
            let name = name.to_string_lossy();
            return Name::parse(&name)
                .map_err(|e| format!("called by the name {e}; or name the gateway with -p NAME"));
        }
        match environment.iter().find(|(_, name)| !name.is_empty()) {
            Some((variable, name)) => Name::parse(&name.to_string_lossy())
                .map_err(|e| format!("environment variable {variable}={e}")),
            None => Ok(Name(None)),
        }
    }

    /// Takes a name as text; `default` is the default gateway.
    pub fn parse(text: &str) -> Result<Name, String> {
        let body = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        let fits = (1..=MAX_NAME).contains(&text.len())
            && text.bytes().all(body)
            && !text.starts_with(['_', '-']);
        if !fits {
            return Err(format!(
                "{text:?}: not a gateway's name; it has 1 to {MAX_NAME} of a-z, 0-9, _ and -, and \
                 starts with a letter or digit"
            ));
        }
        Ok(Name((text != DEFAULT).then(|| text.to_owned())))
    }

    /// The name as files and people see it.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or(DEFAULT)
    }

    /// The unit: `hermes-gateway.service` or `hermes-gateway-NAME.service`.
    pub fn unit(&self) -> String {
        let name = self.0.as_ref().map(|name| format!("-{name}")).unwrap_or_default();
        format!("hermes-gateway{name}.service")
    }

    /// The gateway whose unit this is, if it has the form that [`Name::unit`] gives.
    pub fn of_unit(unit: &str) -> Option<Name> {
        let stem = unit.strip_suffix(".service")?.strip_prefix("hermes-gateway")?;
        match stem {
            "" => Some(Name(None)),
            _ => Name::parse(stem.strip_prefix('-')?).ok(),
        }
    }

    /// How a user calls a command of this gateway: `hermes-gateway`, `hermes-gateway -p NAME`.
    pub fn command(&self) -> String {
        let name = self.0.as_ref().map(|name| format!(" -p {name}")).unwrap_or_default();
        format!("hermes-gateway{name}")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(profile: Option<&str>, argv0: &str, env: Option<&str>) -> Result<String, String> {
        let env = ["", env.unwrap_or_default()].map(OsString::from);
        let env = [OWN_VARIABLE, "HERMES_PROFILE"].into_iter().zip(env).collect::<Vec<_>>();
        Name::resolve(profile, Some(OsStr::new(argv0)), &env).map(|n| n.to_string())
    }

    #[test]
    fn the_order_is_flag_then_alias_then_environment() {
        assert_eq!(resolve(Some("a"), "/bin/b", Some("c")).unwrap(), "a");
        assert_eq!(resolve(None, "/bin/b", Some("c")).unwrap(), "b");
        assert_eq!(resolve(None, "/bin/hermes-gateway", Some("c")).unwrap(), "c");
        assert_eq!(resolve(None, "hermes", Some("")).unwrap(), "default");
        assert_eq!(resolve(None, "hermes", None).unwrap(), "default");
    }

    #[test]
    fn a_childs_own_variable_goes_before_the_one_of_hermes_agent() {
        let both = [(OWN_VARIABLE, "a".into()), ("HERMES_PROFILE", "b".into())];
        let name = |argv0| Name::resolve(None, Some(OsStr::new(argv0)), &both).unwrap().to_string();
        assert_eq!((name("hermes-gateway"), name("/bin/c")), ("a".to_owned(), "c".to_owned()));
        let bad = [(OWN_VARIABLE, "..".into())];
        assert!(Name::resolve(None, None, &bad).unwrap_err().contains(OWN_VARIABLE));
    }

    #[test]
    fn what_is_no_name_is_rejected_with_its_source() {
        for bad in ["", "-x", "_x", "A", "a.b", "a/b", "ä", "a b", &"x".repeat(65)] {
            let error = resolve(Some(bad), "hermes", None).unwrap_err();
            assert!(error.starts_with("--profile \""), "{error}");
        }
        assert!(resolve(None, "/x/Hermes", None).unwrap_err().contains("called by"));
        assert!(resolve(None, "hermes", Some("..")).unwrap_err().contains("HERMES_PROFILE"));
        assert!(resolve(Some(&"x".repeat(64)), "hermes", None).is_ok());
    }

    #[test]
    fn unit_names_are_parsed_from_names() {
        for name in ["default", "coder", "a-b_c"] {
            let name = Name::parse(name).unwrap();
            assert_eq!(Name::of_unit(&name.unit()), Some(name));
        }
        assert_eq!(Name::parse("coder").unwrap().unit(), "hermes-gateway-coder.service");
        assert_eq!(Name::parse("default").unwrap().unit(), "hermes-gateway.service");
        for other in ["hermes-gatewayx.service", "hermes-gateway-.service", "ssh.service"] {
            assert_eq!(Name::of_unit(other), None);
        }
    }
}
