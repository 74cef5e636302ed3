//! Texts of kernels: pieces of WGSL, put together with constants and conditions.
//!
//! A line `#if NAME`, `#else` or `#endif` keeps or drops lines by whether NAME is set; `#for n a b` to
//! `#end` repeats lines for n from a up to b, which compilers would not always do by themselves; and
//! `$NAME$` is the value of NAME.

use std::collections::BTreeMap;

use goldcrest_kernels::Format;

pub(crate) const NUMBERS: &str = include_str!("wgsl/numbers.wgsl");
pub(crate) const ACTIVATIONS: &str = include_str!("wgsl/activations.wgsl");
pub(crate) const PRODUCT: &str = include_str!("wgsl/product.wgsl");
pub(crate) const DOT: &str = include_str!("wgsl/dot.wgsl");
pub(crate) const DOT_BYTES: &str = include_str!("wgsl/dot_bytes.wgsl");
pub(crate) const QUANTISE: &str = include_str!("wgsl/quantise.wgsl");
pub(crate) const ROWS_TO_BYTES: &str = include_str!("wgsl/rows_to_bytes.wgsl");
const PAIR: &str = include_str!("wgsl/pair.wgsl");
pub(crate) const MATVEC: &str = include_str!("wgsl/matvec.wgsl");
pub(crate) const TILE: &str = include_str!("wgsl/tile.wgsl");
pub(crate) const TILE_MATRIX: &str = include_str!("wgsl/tile_matrix.wgsl");
pub(crate) const NORM: &str = include_str!("wgsl/norm.wgsl");
pub(crate) const CHOOSE: &str = include_str!("wgsl/choose.wgsl");
pub(crate) const ATTENTION: &str = include_str!("wgsl/attention.wgsl");
pub(crate) const STORE: &str = include_str!("wgsl/store.wgsl");
pub(crate) const ATTEND: &str = include_str!("wgsl/attend.wgsl");
pub(crate) const ATTEND_ONE: &str = include_str!("wgsl/attend_one.wgsl");
pub(crate) const ATTEND_MATRIX: &str = include_str!("wgsl/attend_matrix.wgsl");
pub(crate) const MERGE: &str = include_str!("wgsl/merge.wgsl");
pub(crate) const BANDWIDTH: &str = include_str!("wgsl/bandwidth.wgsl");
const SIMPLE: &str = include_str!("wgsl/formats/simple.wgsl");
const AFFINE: &str = include_str!("wgsl/formats/affine.wgsl");
const CENTRED: &str = include_str!("wgsl/formats/centred.wgsl");
const LOW_BIT: &str = include_str!("wgsl/formats/low_bit.wgsl");
const FLOAT: &str = include_str!("wgsl/formats/float.wgsl");

/// What the names in a kernel's text stand for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names(BTreeMap<String, String>);

impl Names {
    /// Gives a name a value, and with it sets it.
    pub(crate) fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.0.insert(name.to_owned(), value.to_string());
        self
    }

    /// Sets a name if `there`.
    pub(crate) fn flag(self, name: &str, there: bool) -> Self {
        if there { self.set(name, 1) } else { self }
    }

    /// The text with these names.
    ///
    /// # Panics
    /// If the text, which is this crate's own, has a name without a value or is not balanced.
    pub(crate) fn expand(&self, text: &str) -> String {
        let lines: Vec<_> = text.lines().collect();
        let mut out = String::with_capacity(text.len());
        self.lines(&lines, &mut out);
        out
    }

    fn lines(&self, lines: &[&str], out: &mut String) {
        let mut at = 0;
        while at < lines.len() {
            let line = lines[at].trim_start();
            if let Some(name) = line.strip_prefix("#if ") {
                let (other, end) = branches(lines, at);
                let kept = if self.0.contains_key(name.trim()) {
                    at + 1..other.unwrap_or(end)
                } else {
                    other.map_or(end, |other| other + 1)..end
                };
                self.lines(&lines[kept], out);
                at = end + 1;
            } else if let Some(range) = line.strip_prefix("#for ") {
                let range = self.values(range);
                let words: Vec<_> = range.split_whitespace().collect();
                let bound = |word: &str| word.parse::<u32>().expect("a bound is a number");
                let end = end_of(lines, at, "#for ", "#end");
                for value in bound(words[1])..bound(words[2]) {
                    let inner = self.clone().set(words[0], value);
                    inner.lines(&lines[at + 1..end], out);
                }
                at = end + 1;
            } else {
                out.push_str(&self.values(lines[at]));
                out.push('\n');
                at += 1;
            }
        }
    }

    fn values(&self, line: &str) -> String {
        let mut parts = line.split('$');
        let mut out = parts.next().unwrap_or_default().to_owned();
        while let Some(name) = parts.next() {
            let value = self.0.get(name);
            out.push_str(value.unwrap_or_else(|| panic!("{name} has no value in {line:?}")));
            out.push_str(parts.next().expect("names lie between two signs"));
        }
        out
    }
}

/// The lines of the `#else`, if there is one, and of the `#endif` that belong to the `#if` at `at`.
fn branches(lines: &[&str], at: usize) -> (Option<usize>, usize) {
    let end = end_of(lines, at, "#if ", "#endif");
    let mut depth = 0;
    let other = (at + 1..end).find(|&i| {
        let line = lines[i].trim_start();
        depth += i32::from(line.starts_with("#if ")) - i32::from(line == "#endif");
        depth == 0 && line == "#else"
    });
    (other, end)
}

fn end_of(lines: &[&str], at: usize, opens: &str, closes: &str) -> usize {
    let mut depth = 0;
    let end = (at..lines.len()).find(|&i| {
        let line = lines[i].trim_start();
        depth += i32::from(line.starts_with(opens)) - i32::from(line == closes);
        depth == 0
    });
    end.expect("what is opened is closed")
}

/// Whether there are kernels for a format.
pub fn supports(format: Format) -> bool {
    family(format, "", Codes::Numbers).is_some()
}

/// What becomes of a format's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codes {
    /// Numbers.
    Numbers,
    /// Signed bytes, which are multiplied with bytes.
    Bytes,
}

/// Whether a format's values are small integers under scales.
pub(crate) fn has_codes(format: Format) -> bool {
    !matches!(format, Format::F32 | Format::F16 | Format::BF16)
}

/// The functions that decode a format, whose names end in `suffix`.
pub(crate) fn decoder(format: Format, suffix: &str, codes: Codes) -> String {
    let (text, names) =
        family(format, suffix, codes).expect("a plan has formats with kernels alone");
    let mut decoder = names.expand(text);
    if has_codes(format) && codes == Codes::Numbers {
        decoder += &names.expand(PAIR);
    }
    decoder
}

/// The product of a format's rows with rows of numbers or of bytes.
pub(crate) fn dot(format: Format, suffix: &str, names: &Names, codes: Codes) -> String {
    let halves = matches!(format, Format::Q2_K | Format::Q3_K | Format::Q6_K);
    let names = names.clone().set("F", suffix).flag("SPLIT", halves);
    names.expand(if codes == Codes::Bytes { DOT_BYTES } else { DOT })
}

/// Bytes of sixteen values, four a word: what the codes stand for, above an offset.
fn table(values: [i32; 16], offset: i32) -> String {
    let byte = |i: usize| u32::from((values[i] + offset) as u8) << (8 * (i % 4));
    let word = |i: usize| format!("{}u", (4 * i..4 * i + 4).map(byte).fold(0, |all, b| all | b));
    [word(0), word(1), word(2), word(3)].join(", ")
}

fn family(format: Format, suffix: &str, codes: Codes) -> Option<(&'static str, Names)> {
    use Format::*;
    const UNEVEN: [i32; 16] =
        [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    const TINY: [i32; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
    // A unit has 64 values of simple formats, 256 of the others; sixteen of them are whole lines.
    let simple = matches!(format, Q8_0 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | IQ4_NL | MXFP4);
    let unit = format.panel_bytes(16 * if simple { 64 } else { 256 }) / 16 / 16;
    let names = Names::default().set("F", suffix).set("UNIT", unit);
    let block = |names: Names, bits: usize| names.set("BLOCK", 4 * bits);
    let offset = |names: Names, offset: i32| names.set("OFFSET", format!("{offset}.0"));
    // Codes that are signed by themselves: as numbers they are read above an offset.
    let signed =
        |names: Names, above: i32| offset(names, if codes == Codes::Bytes { 0 } else { above });
    let looked = |names: Names, values, above: i32| {
        let names = signed(names, above);
        names.set("TABLE", table(values, if codes == Codes::Bytes { 0 } else { above }))
    };
    let flip = if codes == Codes::Bytes { "0x0" } else { "0x80808080" };
    Some(match format {
        F32 => (FLOAT, names.flag("WORDS", true)),
        F16 => (FLOAT, names),
        BF16 => (FLOAT, names.flag("BRAIN", true)),
        Q8_0 => (SIMPLE, signed(block(names, 8), 128).flag("BYTES", true).set("FLIP", flip)),
        Q4_0 => (SIMPLE, offset(block(names, 4), 8)),
        Q4_1 => (SIMPLE, block(names, 4).flag("MIN", true)),
        Q5_0 => (SIMPLE, offset(block(names, 5), 16).flag("FIFTH", true)),
        Q5_1 => (SIMPLE, block(names, 5).flag("FIFTH", true).flag("MIN", true)),
        IQ4_NL => (SIMPLE, looked(block(names, 4), UNEVEN, 128)),
        MXFP4 => (SIMPLE, looked(block(names, 4), TINY, 12).flag("EXPONENT", true)),
        Q4_K => (AFFINE, block(names, 4)),
        Q5_K => (AFFINE, block(names, 5).flag("FIFTH", true)),
        Q2_K => (AFFINE, block(names, 2).flag("TWO", true).flag("NIBBLES", true)),
        Q6_K => (CENTRED, offset(block(names, 6), 32).set("SCALES", 16).flag("SIXTEENS", true)),
        Q3_K => {
            let names = offset(block(names, 3), 4).set("SCALES", 12).flag("SIXTEENS", true);
            (CENTRED, names.flag("SIX_BITS", true))
        }
        IQ4_XS => (CENTRED, looked(block(names, 4), UNEVEN, 128).set("SCALES", 8)),
        TQ2_0 => (LOW_BIT, names.set("CODES", 64).set("SPAN", 256).set("STEP", "1.0")),
        Q2_0 => (LOW_BIT, names.set("CODES", 64).set("SPAN", 64).set("STEP", "1.0")),
        PQ2_0 => (LOW_BIT, names.set("CODES", 64).set("SPAN", 128).set("STEP", "1.0")),
        Q1_0 => {
            let names = names.set("CODES", 32).set("SPAN", 128).set("STEP", "2.0");
            (LOW_BIT, names.flag("ONE", true))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_nest_and_lines_repeat() {
        let text =
            "#if A\na $N$\n#if B\nb\n#else\nc\n#endif\n#else\nd\n#endif\n#for i 0 $N$\ne$i$\n#end";
        let names = Names::default().set("N", 2);
        assert_eq!(names.expand(text), "d\ne0\ne1\n");
        assert_eq!(names.flag("A", true).expand(text), "a 2\nc\ne0\ne1\n");
    }
}
