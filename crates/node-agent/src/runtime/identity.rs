//! Which user a program runs as: never the superuser, and never the Agent's groups.
//!
//! Names are looked up in `/etc/passwd` and `/etc/group`. Users of a directory service are given as `uid:gid`.

use super::error::RuntimeError;

/// Who runs the runtime of an Agent that is the superuser, where its operator names nobody.
const NOBODY: &str = "nobody";

/// A user by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Its other groups: a graphics card is often open to one of them.
    pub groups: Vec<u32>,
}

/// Who is to run the program; `None` means whoever runs the Agent.
///
/// # Errors
/// [`RuntimeError::User`].
pub(super) fn choose(
    wish: Option<&str>,
    own_uid: u32,
    passwd: &str,
    group: &str,
) -> Result<Option<Identity>, RuntimeError> {
    let user = match (wish, own_uid) {
        (None, 0) => NOBODY,
        (None, _) => return Ok(None),
        (Some(user), _) => user,
    };
    let refused = |problem| RuntimeError::User { user: user.to_owned(), problem };
    let identity = find(user, passwd, group)
        .ok_or_else(|| refused("/etc/passwd has no such user: create it, or give uid:gid as numbers"))?;
    match own_uid {
        0 if identity.uid == 0 => Err(refused("that is the superuser: choose another one")),
        0 => Ok(Some(identity)),
        own if own == identity.uid => Ok(None),
        _ => Err(refused("only an Agent that runs as root can choose a user: leave it out")),
    }
}

fn find(user: &str, passwd: &str, group: &str) -> Option<Identity> {
    if let Some((uid, gid)) = user.split_once(':') {
        return Some(Identity { uid: uid.parse().ok()?, gid: gid.parse().ok()?, groups: Vec::new() });
    }
    let mut fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let entry = fields.find(|entry| entry.first() == Some(&user))?;
    let groups = group.lines().filter_map(|line| {
        let mut fields = line.split(':').skip(2);
        let (gid, members) = (fields.next()?, fields.next()?);
        members.split(',').any(|member| member == user).then(|| gid.parse().ok())?
    });
    Some(Identity {
        uid: entry.get(2)?.parse().ok()?,
        gid: entry.get(3)?.parse().ok()?,
        groups: groups.collect(),
    })
}

/// Who runs the program here.
///
/// # Errors
/// [`RuntimeError::User`].
#[expect(clippy::disallowed_methods, reason = "the system's lists of users, no file of the volume")]
pub(super) fn choose_here(wish: Option<&str>) -> Result<Option<Identity>, RuntimeError> {
    // A system without the lists knows no name.
    let list = |path| {
        std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    };
    choose(wish, rustix::process::geteuid().as_raw(), &list("/etc/passwd"), &list("/etc/group"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533::/:/bin/false\nruntime:x:990:991::/:/bin/false\n";
    const GROUP: &str =
        "root:x:0:\nvideo:x:44:amy,runtime\nrender:x:105:runtime\nruntime:x:991:\nother:x:5:runtimes\n";

    fn chosen(wish: Option<&str>, own_uid: u32) -> Result<Option<Identity>, RuntimeError> {
        choose(wish, own_uid, PASSWD, GROUP)
    }

    #[test]
    fn the_superuser_always_hands_over_to_somebody_else() {
        let nobody = Identity { uid: 65534, gid: 65533, groups: vec![] };
        assert_eq!(chosen(None, 0).unwrap(), Some(nobody));
        let runtime = Identity { uid: 990, gid: 991, groups: vec![44, 105] };
        assert_eq!(chosen(Some("runtime"), 0).unwrap(), Some(runtime));
        assert_eq!(chosen(Some("7:8"), 0).unwrap(), Some(Identity { uid: 7, gid: 8, groups: vec![] }));
        for bad in ["root", "0:8", "amy", "", "7:", "7"] {
            assert!(matches!(chosen(Some(bad), 0), Err(RuntimeError::User { .. })), "{bad}");
        }
        assert!(choose(None, 0, "", "").is_err());
    }

    #[test]
    fn anybody_else_runs_it_as_themselves() {
        assert_eq!(chosen(None, 990).unwrap(), None);
        assert_eq!(chosen(Some("runtime"), 990).unwrap(), None);
        assert!(matches!(chosen(Some("nobody"), 990), Err(RuntimeError::User { .. })));
    }
}
