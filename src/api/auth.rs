//! Authentication: one function that checks a request's key and returns a proof, which handlers ask for.
//! What the proof opens is in the configuration (`[keys.NAME]`).

use std::{fmt, net::SocketAddr, sync::Arc};

use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::config::{ClientKey, Config, Secret};
use crate::digest::sha256;
use crate::http::Request;
use crate::session::Owner;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Tcp(SocketAddr),
    /// A process of this uid on the control socket. `spare`: the connection shares its thread with others.
    Control {
        uid: u32,
        spare: bool,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Tcp(address) => address.fmt(f),
            Origin::Control { uid, .. } => write!(f, "uid {uid} on the control socket"),
        }
    }
}

/// The digests of valid keys. The owner's is the first: whoever may use the control socket may read it
/// too.
pub struct Keyring(Vec<([u8; 32], Arc<ClientKey>)>);

/// By hand: a digest is enough to try guesses on.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring(…)")
    }
}

impl Keyring {
    /// # Errors
    /// The name of a client whose key is the gateway's own.
    pub fn new(owner: &Secret, config: &Config) -> Result<Keyring, String> {
        let digest = |key: &Secret| sha256(&[key.bytes()]);
        let mut keys = vec![(digest(owner), Arc::new(ClientKey::owner(owner.clone())))];
        for (name, key) in config.keys.iter() {
            let Some(secret) = &key.key else { continue };
            if secret == owner {
                return Err(name.to_owned());
            }
            keys.push((digest(secret), Arc::new(key.clone())));
        }
        Ok(Keyring(keys))
    }

    /// Whether a key is still there and opens what it opened.
    pub fn holds(&self, shown: &ClientKey) -> bool {
        self.proof_of(shown).is_some()
    }

    /// The proof for a key that was shown before, if it is still held.
    pub fn proof_of(&self, shown: &ClientKey) -> Option<Authenticated> {
        let found = self.0.iter().find(|(_, key)| **key == *shown);
        found.map(|(_, key)| Authenticated(Arc::clone(key)))
    }

    /// The key of this principal.
    pub fn named(&self, name: &str) -> Option<&Arc<ClientKey>> {
        self.0.iter().map(|(_, key)| key).find(|key| key.name == name)
    }

    /// Whose key this is. All keys are looked at, by digests of one length, so that the time tells
    /// neither which one it is nor how near a wrong one comes.
    fn find(&self, shown: &[u8]) -> Option<&Arc<ClientKey>> {
        let shown = sha256(&[shown]);
        let mut found = u32::MAX;
        for (at, (digest, _)) in (0..).zip(&self.0) {
            let same: Choice = digest.ct_eq(&shown);
            found.conditional_assign(&at, same);
        }
        self.0.get(usize::try_from(found).ok()?).map(|(_, key)| key)
    }
}

/// The proof that a request is authenticated, and by whose key. Only [`authenticate`] and
/// [`Keyring::proof_of`] make one.
pub struct Authenticated(pub(super) Arc<ClientKey>);

impl Authenticated {
    /// Sessions and messages belong to a principal.
    pub fn principal(&self) -> &str {
        &self.0.name
    }

    /// Whether the principal may see messages of this session; those without one are its own.
    pub fn sees(&self, who: &Owner) -> bool {
        let touches = who.session.as_deref().is_none_or(|session| self.0.may_touch(session));
        self.0.may_see(&who.principal) && touches
    }
}

/// Accepts a valid key, and on the control socket, whose peers the kernel has named, any request.
pub fn authenticate(request: &Request, origin: Origin, keys: &Keyring) -> Option<Authenticated> {
    let key = match origin {
        Origin::Control { .. } => &keys.0.first()?.1,
        Origin::Tcp(_) => {
            let (scheme, shown) = request.header_text("Authorization")?.split_once(' ')?;
            let found = keys.find(shown.trim_matches(' ').as_bytes())?;
            scheme.eq_ignore_ascii_case("bearer").then_some(found)?
        }
    };
    Some(Authenticated(Arc::clone(key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Role;

    fn secret(letter: char) -> Secret {
        Secret::client(&letter.to_string().repeat(40)).unwrap()
    }

    #[test]
    fn each_key_is_its_principals() {
        let mut config = Config::default();
        for (name, letter) in [("alice", 'a'), ("bob", 'b')] {
            let key = ClientKey { key: Some(secret(letter)), ..ClientKey::new(name) };
            config.keys.insert(name.to_owned(), key);
        }
        let keys = Keyring::new(&secret('o'), &config).unwrap();
        let whose = |shown: &str| keys.find(shown.as_bytes()).map(|key| key.name.clone());
        assert_eq!(whose(&"a".repeat(40)).as_deref(), Some("alice"));
        assert_eq!(whose(&"b".repeat(40)).as_deref(), Some("bob"));
        assert_eq!(whose(&"o".repeat(40)).as_deref(), Some("owner"));
        for wrong in ["", "a", &"a".repeat(39), &"a".repeat(41), &"c".repeat(40)] {
            assert_eq!(whose(wrong), None, "{wrong}");
        }
        assert_eq!(Keyring::new(&secret('a'), &config).unwrap_err(), "alice");
        assert_eq!(format!("{keys:?}"), "Keyring(…)");
    }

    #[test]
    fn a_key_whose_digest_differs_in_one_bit_is_another() {
        let shown = "a".repeat(40);
        let right = sha256(&[shown.as_bytes()]);
        let finds = |digest| {
            let keys = Keyring(vec![(digest, Arc::new(ClientKey::new("alice")))]);
            keys.find(shown.as_bytes()).is_some()
        };
        assert!(finds(right));
        for bit in 0..right.len() * 8 {
            let mut near = right;
            near[bit / 8] ^= 1 << (bit % 8);
            assert!(!finds(near), "bit {bit} is not looked at");
        }
    }

    #[test]
    fn a_proof_stands_while_its_key_opens_the_same() {
        let with = |owner: char, alice: ClientKey| {
            let mut config = Config::default();
            config.keys.insert("alice".to_owned(), alice);
            Keyring::new(&secret(owner), &config).unwrap()
        };
        let alice = ClientKey { key: Some(secret('a')), ..ClientKey::new("alice") };
        let keys = with('o', alice.clone());
        let [owner, client] = [0, 1].map(|at| Arc::clone(&keys.0[at].1));
        let held = |keys: &Keyring| [keys.holds(&owner), keys.holds(&client)];
        assert_eq!(held(&with('o', alice.clone())), [true, true]);
        assert_eq!(held(&with('w', alice.clone())), [false, true]);
        for other in [
            ClientKey { key: Some(secret('z')), ..alice.clone() },
            ClientKey { sessions: vec!["one".to_owned()], ..alice.clone() },
        ] {
            assert_eq!(held(&with('o', other)), [true, false]);
        }
    }

    #[test]
    fn a_role_opens_its_routes_only() {
        let user = ClientKey::new("alice");
        assert!(user.opens("chat") && user.opens("messages"));
        assert!(!user.opens("status") && !user.opens("journal"));
        let operator = ClientKey { role: Role::Operator, ..user.clone() };
        assert!(operator.opens("status") && operator.opens("journal"));
        let narrow = ClientKey { routes: vec!["chat".to_owned()], ..operator };
        assert!(narrow.opens("chat") && !narrow.opens("messages") && !narrow.opens("status"));
        let sessions = ["a", "b-*"].map(str::to_owned).to_vec();
        let bound = ClientKey { sessions, ..user };
        for (session, may) in
            [("a", true), ("b-", true), ("b-1", true), ("aa", false), ("b", false)]
        {
            assert_eq!(bound.may_touch(session), may, "{session}");
        }
    }
}
