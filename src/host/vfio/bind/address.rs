//! PCI addresses, as sysfs spells them.

use super::BindError;

/// The address in sysfs's spelling, `DDDD:BB:DD.F` in lowercase. What passes is a single name of a
/// folder: it holds neither slashes nor dots but the one.
pub(super) fn canonical(given: &str) -> Result<String, BindError> {
    if is_address(given) { Ok(given.to_ascii_lowercase()) } else { Err(BindError::Address { given: given.to_owned() }) }
}

fn is_address(text: &str) -> bool {
    let mut parts = text.split(':');
    let (Some(domain), Some(bus), Some(slot), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let Some((device, function)) = slot.split_once('.') else { return false };
    // Some hosts have domains of more than 16 bits.
    hex(domain, 4..=8).is_some()
        && hex(bus, 2..=2).is_some()
        && hex(device, 2..=2).is_some_and(|device| device < 32)
        && hex(function, 1..=1).is_some_and(|function| function < 8)
}

fn hex(text: &str, digits: core::ops::RangeInclusive<usize>) -> Option<u32> {
    let good = digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    good.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_addresses_pass_in_lowercase() {
        for (given, expected) in
            [("0000:00:01.0", "0000:00:01.0"), ("0031:FF:1f.7", "0031:ff:1f.7"), ("10000:e1:00.0", "10000:e1:00.0")]
        {
            assert_eq!(canonical(given).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_none_is_refused_with_the_form() {
        for given in [
            "",
            "00:01.0",
            "0000:00:01",
            "0000:00:20.0",
            "0000:00:01.8",
            "0000:00:01.0.0",
            "0000:00:01.0/..",
            "../../../../etc",
            "0000:00:+1.0",
            "000:00:01.0",
            "0000:00:01.0 ",
            "0000:00:01.0\n",
            "0:0000:00:01.0",
            "nvme0",
        ] {
            let error = canonical(given).unwrap_err();
            assert_eq!(error, BindError::Address { given: given.to_owned() });
            assert!(error.to_string().contains("0000:00:01.0"), "{error}");
        }
    }
}
