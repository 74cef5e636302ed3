//! The losses of trainings as a picture.

use std::fmt::Write;

use crate::log::Record;

const SIZE: (f64, f64) = (820.0, 460.0);
/// Left, top, right, bottom.
const MARGINS: (f64, f64, f64, f64) = (56.0, 20.0, 150.0, 44.0);
const COLOURS: [&str; 6] = ["#1b6ca8", "#c8553d", "#4f8a3c", "#7b4ea3", "#b08900", "#555555"];

/// The losses of one training.
pub struct Curve {
    /// What to call it.
    pub name: String,
    /// The log.
    pub records: Vec<Record>,
}

struct Axes {
    tokens: f64,
    low: f64,
    high: f64,
}

impl Axes {
    fn new(curves: &[Curve]) -> Self {
        let records = || curves.iter().flat_map(|curve| &curve.records);
        let tokens = records().map(|r| r.tokens as f64).fold(1.0, f64::max);
        let low = records().map(|r| r.held_out.unwrap_or(r.hard)).fold(f64::INFINITY, f64::min);
        let low = if low.is_finite() { (low * 2.0).floor() / 2.0 } else { 0.0 };
        Self { tokens, low, high: low + 4.0 }
    }

    fn x(&self, tokens: f64) -> f64 {
        MARGINS.0 + tokens / self.tokens * (SIZE.0 - MARGINS.0 - MARGINS.2)
    }

    fn y(&self, loss: f64) -> f64 {
        let share = (loss.min(self.high) - self.low) / (self.high - self.low);
        SIZE.1 - MARGINS.3 - share * (SIZE.1 - MARGINS.1 - MARGINS.3)
    }

    fn path(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        let mut path = String::new();
        for (tokens, loss) in points {
            let letter = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{:.1} {:.1}", self.x(tokens), self.y(loss));
        }
        path
    }

    fn draw(&self, out: &mut String) {
        let (left, right) = (MARGINS.0, SIZE.0 - MARGINS.2);
        let bottom = SIZE.1 - MARGINS.3;
        for i in 0..=8 {
            let loss = self.low + (self.high - self.low) * f64::from(i) / 8.0;
            let y = self.y(loss);
            let _ = write!(
                out,
                "<path d='M{left} {y:.1}H{right}' stroke='#ddd'/>\
                 <text x='{}' y='{:.1}' text-anchor='end'>{loss:.1}</text>",
                left - 6.0,
                y + 4.0
            );
        }
        for i in 0..=5 {
            let tokens = self.tokens * f64::from(i) / 5.0;
            let _ = write!(
                out,
                "<text x='{:.1}' y='{}' text-anchor='middle'>{:.1}</text>",
                self.x(tokens),
                bottom + 18.0,
                tokens / 1e6
            );
        }
        let middle = (left + right) / 2.0;
        let _ = write!(
            out,
            "<text x='{middle}' y='{}' text-anchor='middle'>million tokens seen</text>\
             <text transform='translate(14 {}) rotate(-90)' text-anchor='middle'>\
             nats per token</text>",
            SIZE.1 - 8.0,
            (MARGINS.1 + bottom) / 2.0
        );
    }
}

/// The mean of each record and its neighbours.
fn smooth(records: &[Record]) -> impl Iterator<Item = (f64, f64)> {
    let width = (records.len() / 60).max(1);
    records.chunks(width).map(|chunk| {
        let n = chunk.len() as f64;
        let tokens = chunk.iter().map(|r| r.tokens as f64).sum::<f64>() / n;
        (tokens, chunk.iter().map(|r| r.hard).sum::<f64>() / n)
    })
}

/// An SVG picture: thin lines are batches, smoothed, thick ones the held-out text.
pub fn svg(curves: &[Curve]) -> String {
    let axes = Axes::new(curves);
    let (width, height) = SIZE;
    let mut out = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' \
         font-family='sans-serif' font-size='12'><rect width='100%' height='100%' fill='white'/>"
    );
    axes.draw(&mut out);
    for (i, (curve, colour)) in curves.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let batches = axes.path(smooth(&curve.records));
        let held_out = curve.records.iter().filter_map(|r| Some((r.tokens as f64, r.held_out?)));
        let held_out = axes.path(held_out);
        let (x, y) = (SIZE.0 - MARGINS.2 + 12.0, MARGINS.1 + 14.0 + 20.0 * i as f64);
        let name = curve.name.replace('&', "&amp;").replace('<', "&lt;");
        let _ = write!(
            out,
            "<path d='{batches}' fill='none' stroke='{colour}' stroke-opacity='0.4'/>\
             <path d='{held_out}' fill='none' stroke='{colour}' stroke-width='2'/>\
             <text x='{x}' y='{y}' fill='{colour}'>{name}</text>"
        );
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_kind_of_loss() {
        let record = |step: u64| Record {
            step,
            tokens: step * 100,
            hard: 5.0 - step as f64 / 100.0,
            soft: None,
            held_out: step.is_multiple_of(50).then_some(4.0),
            rate: 1e-3,
            norm: 1.0,
            tokens_per_second: 1.0,
        };
        let curve = Curve { name: "a<b".into(), records: (1..=100).map(record).collect() };
        let svg = svg(&[curve]);
        assert_eq!(svg.matches("fill='none'").count(), 2);
        assert!(svg.contains("a&lt;b") && !svg.contains("NaN"));
        assert!(svg.ends_with("</svg>\n"));
    }
}
