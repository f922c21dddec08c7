//! Medians, percentiles and spread.

/// The value at `percent` of sorted `samples`, by nearest rank; `None` of nothing.
pub fn percentile<T: Copy>(samples: &[T], percent: f64) -> Option<T> {
    let rank = (percent / 100.0 * samples.len() as f64).ceil() as usize;
    samples.get(rank.saturating_sub(1)).copied()
}

/// The middle of some figures and how far they are apart.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle; of an even number of figures, the lower of the two.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of `figures` in any order; `None` of nothing.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        Some(Self {
            min: *sorted.first()?,
            median: percentile(&sorted, 50.0)?,
            max: *sorted.last()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let samples: Vec<u32> = (1..=100).collect();
        for (percent, value) in [(0.0, 1), (1.0, 1), (50.0, 50), (99.0, 99), (100.0, 100)] {
            assert_eq!(percentile(&samples, percent), Some(value), "{percent}");
        }
        assert_eq!(percentile::<u32>(&[], 50.0), None);
    }

    #[test]
    fn the_spread_is_of_figures_in_any_order() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of([]), None);
    }
}
