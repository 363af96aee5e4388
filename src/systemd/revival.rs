//! Whether a unit comes back after its main process has ended, by systemd's rules. Pure.

use super::systemctl::Properties;

/// What [`after_exit`] looks at.
pub const PROPERTIES: &str =
    "Restart,SuccessExitStatus,RestartPreventExitStatus,RestartForceExitStatus";

/// Whether its manager starts a unit again whose main process ends with this status outside of a stop
/// (systemd.service(5), `Restart=`).
pub fn after_exit(shown: &Properties, status: u8) -> bool {
    let status = status.to_string();
    let lists = |name| shown.get(name).split([' ', ',']).any(|word| word == status);
    if lists("RestartPreventExitStatus") {
        return false;
    }
    let succeeds = || status == "0" || lists("SuccessExitStatus");
    lists("RestartForceExitStatus")
        || match shown.get("Restart") {
            "always" => true,
            "on-success" => succeeds(),
            "on-failure" => !succeeds(),
            _ => false,
        }
}

/// Whether the unit runs again when a job of this type is done (systemd's `job_type`): also where it
/// stops first.
pub fn by_job(job_type: &str) -> bool {
    matches!(job_type, "restart" | "try-restart" | "start")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_comes_back_as_its_settings_say() {
        for (restart, success, prevent, force, expected) in [
            ("always", "75 143", "78", "75 143", true),
            ("no", "75 143", "78", "75 143", true),
            ("on-failure", "143", "", "", false),
            ("on-failure", "", "", "", true),
            ("on-success", "143", "", "", true),
            ("on-success", "", "", "", false),
            ("always", "", "143", "143", false),
            ("on-abnormal", "", "", "", false),
            ("no", "", "", "", false),
            ("no", "", "", "1430 14", false),
        ] {
            let text = format!(
                "Restart={restart}\nSuccessExitStatus={success}\nRestartPreventExitStatus={prevent}\n\
                 RestartForceExitStatus={force}\n"
            );
            let found = after_exit(&Properties(text.clone()), 143);
            assert_eq!(found, expected, "{text}");
        }
    }
}
