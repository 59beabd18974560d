//! Numbers of the command line that have bounds. What is no number is told what is wanted, as what is too great is.

use std::ops::RangeInclusive;

/// Reads a whole number within these bounds.
pub(super) fn whole<T: TryFrom<u64>>(
    bounds: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|n| bounds.contains(n));
        let number = number.and_then(|n| T::try_from(n).ok());
        number.ok_or_else(|| match *bounds.end() {
            u64::MAX => format!("a whole number, {} or more, is wanted", bounds.start()),
            most => format!("a whole number from {} to {most} is wanted", bounds.start()),
        })
    }
}

/// Reads a number of these things, such as seconds, within these bounds.
pub(super) fn number(
    bounds: RangeInclusive<f64>,
    what: &'static str,
) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|n| bounds.contains(n));
        number.ok_or_else(|| {
            let (least, most) = (bounds.start(), bounds.end());
            format!("{what} are wanted, a number from {least} to {most} without a unit")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_such_number_is_told_what_is_wanted() {
        let mtu = whole::<u16>(576..=9216);
        assert_eq!(mtu("1500"), Ok(1500));
        for wrong in ["64k", "", "-1", "575", "9217", "1e3"] {
            let wanted = "a whole number from 576 to 9216 is wanted";
            assert_eq!(mtu(wrong), Err(wanted.to_owned()), "{wrong}");
        }
        let some = whole::<u64>(1..=u64::MAX);
        assert_eq!(
            some("0"),
            Err("a whole number, 1 or more, is wanted".to_owned())
        );
        let seconds = number(0.01..=3600.0, "seconds");
        assert_eq!(seconds("0.5"), Ok(0.5));
        for wrong in ["5ms", "", "0", "nan"] {
            let wanted = "seconds are wanted, a number from 0.01 to 3600 without a unit";
            assert_eq!(seconds(wrong), Err(wanted.to_owned()), "{wrong}");
        }
    }
}
