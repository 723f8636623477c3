//! A strict JSON cursor (RFC 8259) over bytes that are known to be UTF-8.

/// Deepest nesting of objects and arrays that is read; the outermost object is 1.
/// Bounds the stack of the recursive skip, here and in whoever reads the event after us.
pub(crate) const MAX_DEPTH: u32 = 64;

/// Why bytes are not JSON that we read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Not JSON at this byte.
    Syntax(usize),
    /// More than [`MAX_DEPTH`] levels.
    TooDeep,
}

/// A number as it stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    /// Digits only, and within 64 bits.
    Integer(i64),
    /// With a fraction or an exponent. Infinite when out of a double's range.
    Float(f64),
    /// Digits only, but outside of 64 bits; the nearest double.
    Huge(f64),
}

/// The content of a string, between its quotes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    pub(crate) raw: &'a [u8],
    pub(crate) escaped: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Powers of ten that a double holds exactly.
const POW10: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The bytes from `start` to here.
    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    /// The byte here; 0, which is never JSON outside of strings, at the end.
    #[inline(always)]
    pub(crate) fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    #[inline(always)]
    pub(crate) fn step(&mut self) {
        self.at += 1;
    }

    pub(crate) fn fault<T>(&self) -> Result<T, Fault> {
        Err(Fault::Syntax(self.at))
    }

    /// Skips white space and returns the byte after it.
    #[inline(always)]
    pub(crate) fn space(&mut self) -> u8 {
        loop {
            match self.peek() {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                byte => return byte,
            }
        }
    }

    /// Steps over `expected` after white space.
    #[inline(always)]
    pub(crate) fn expect(&mut self, expected: u8) -> Result<(), Fault> {
        if self.space() != expected {
            return self.fault();
        }
        self.at += 1;
        Ok(())
    }

    /// Steps over `literal` if it stands here.
    #[inline(always)]
    pub(crate) fn take(&mut self, literal: &[u8]) -> bool {
        let found = self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(literal));
        if found {
            self.at += literal.len();
        }
        found
    }

    /// Only white space is left.
    pub(crate) fn end(&mut self) -> Result<(), Fault> {
        self.space();
        if self.at < self.bytes.len() { self.fault() } else { Ok(()) }
    }

    /// Reads a string from its opening quote to after its closing one.
    #[inline]
    pub(crate) fn text(&mut self) -> Result<Text<'a>, Fault> {
        if self.peek() != b'"' {
            return self.fault();
        }
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.plain();
            match self.peek() {
                b'"' => {
                    let raw = self.since(start);
                    self.at += 1;
                    return Ok(Text { raw, escaped });
                }
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return self.fault(),
            }
        }
    }

    /// Steps over bytes that stand for themselves, to the next quote, backslash or control character.
    #[inline(always)]
    fn plain(&mut self) {
        const ONES: u64 = 0x0101_0101_0101_0101;
        const HIGH: u64 = 0x8080_8080_8080_8080;
        // Eight bytes at a time: the lowest bit that is set marks the first such byte exactly.
        while let Some(chunk) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<8>) {
            let word = u64::from_le_bytes(*chunk);
            let zero = |x: u64| x.wrapping_sub(ONES) & !x;
            let control = word.wrapping_sub(ONES * 0x20) & !word;
            let found =
                (zero(word ^ (ONES * u64::from(b'"'))) | zero(word ^ (ONES * u64::from(b'\\'))) | control) & HIGH;
            if found != 0 {
                self.at += found.trailing_zeros() as usize / 8;
                return;
            }
            self.at += 8;
        }
        while !matches!(self.peek(), 0..0x20 | b'"' | b'\\') {
            self.at += 1;
        }
    }

    /// Steps over one escape, from its backslash; a surrogate must have its partner.
    #[cold]
    fn escape(&mut self) -> Result<(), Fault> {
        self.at += 1;
        match self.peek() {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                self.at += 1;
                Ok(())
            }
            b'u' => match self.unit()? {
                0xd800..0xdc00 => {
                    if self.peek() != b'\\' {
                        return self.fault();
                    }
                    self.at += 1;
                    if self.peek() != b'u' || !(0xdc00..0xe000).contains(&self.unit()?) {
                        return self.fault();
                    }
                    Ok(())
                }
                0xdc00..0xe000 => self.fault(),
                _ => Ok(()),
            },
            _ => self.fault(),
        }
    }

    /// Reads `u` and four hexadecimal digits.
    fn unit(&mut self) -> Result<u32, Fault> {
        self.at += 1;
        let mut unit = 0;
        for _ in 0..4 {
            let Some(digit) = char::from(self.peek()).to_digit(16) else { return self.fault() };
            unit = unit << 4 | digit;
            self.at += 1;
        }
        Ok(unit)
    }

    /// Reads a number.
    #[inline]
    pub(crate) fn number(&mut self) -> Result<Number, Fault> {
        let start = self.at;
        let negative = self.peek() == b'-';
        if negative {
            self.at += 1;
        }
        let leading = self.peek();
        let first = self.at;
        let mut mantissa = self.digits(0);
        let mut digits = self.at - first;
        if digits == 0 || (digits > 1 && leading == b'0') {
            return self.fault();
        }
        let mut scale = 0;
        let mut plain = true;
        match self.peek() {
            b'.' => {
                self.at += 1;
                let first = self.at;
                mantissa = self.digits(mantissa);
                scale = self.at - first;
                if scale == 0 {
                    return self.fault();
                }
                digits += scale;
                if matches!(self.peek(), b'e' | b'E') {
                    plain = false;
                    self.exponent()?;
                }
            }
            b'e' | b'E' => {
                plain = false;
                self.exponent()?;
            }
            _ => return Ok(self.integer(start, mantissa, digits, negative)),
        }
        // Both are exact below 2^53 and 10^22, so that one division rounds correctly (Clinger's fast path).
        if plain
            && digits <= 19
            && mantissa <= 1 << 53
            && let Some(power) = POW10.get(scale)
        {
            let value = mantissa as f64 / power;
            return Ok(Number::Float(if negative { -value } else { value }));
        }
        Ok(Number::Float(self.slow_float(start)))
    }

    /// Reads digits onto `sum`; meaningless after 19 of them.
    #[inline(always)]
    fn digits(&mut self, mut sum: u64) -> u64 {
        loop {
            let digit = self.peek().wrapping_sub(b'0');
            if digit > 9 {
                return sum;
            }
            sum = sum.wrapping_mul(10).wrapping_add(u64::from(digit));
            self.at += 1;
        }
    }

    #[inline(always)]
    fn integer(&self, start: usize, mantissa: u64, digits: usize, negative: bool) -> Number {
        if digits <= 18 {
            let value = mantissa.cast_signed();
            return Number::Integer(if negative { -value } else { value });
        }
        let text = str::from_utf8(self.since(start)).unwrap_or_default();
        text.parse().map_or_else(|_| Number::Huge(self.slow_float(start)), Number::Integer)
    }

    fn exponent(&mut self) -> Result<(), Fault> {
        self.at += 1;
        if matches!(self.peek(), b'+' | b'-') {
            self.at += 1;
        }
        let first = self.at;
        self.digits(0);
        if self.at == first { self.fault() } else { Ok(()) }
    }

    #[cold]
    fn slow_float(&self, start: usize) -> f64 {
        str::from_utf8(self.since(start)).ok().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN)
    }

    /// Steps over any value, checking its syntax. `depth` is the depth of what holds it.
    pub(crate) fn skip(&mut self, depth: u32) -> Result<(), Fault> {
        match self.space() {
            b'"' => self.text().map(drop),
            b'-' | b'0'..=b'9' => self.number().map(drop),
            b'{' => {
                self.step();
                self.members(depth + 1, |cursor, _| cursor.skip(depth + 1))
            }
            b'[' => {
                self.step();
                self.items(depth + 1, |cursor| cursor.skip(depth + 1))
            }
            b't' if self.take(b"true") => Ok(()),
            b'f' if self.take(b"false") => Ok(()),
            b'n' if self.take(b"null") => Ok(()),
            _ => self.fault(),
        }
    }

    /// Walks the members of an object from after its brace; `value` reads each member's value.
    pub(crate) fn members<E: From<Fault>>(
        &mut self,
        depth: u32,
        mut value: impl FnMut(&mut Self, Text<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        if depth > MAX_DEPTH {
            return Err(Fault::TooDeep.into());
        }
        if self.space() == b'}' {
            self.step();
            return Ok(());
        }
        loop {
            self.space();
            let name = self.text()?;
            self.expect(b':')?;
            value(self, name)?;
            match self.space() {
                b',' => self.step(),
                b'}' => {
                    self.step();
                    return Ok(());
                }
                _ => return Err(Fault::Syntax(self.at).into()),
            }
        }
    }

    /// Walks the items of an array from after its bracket; `item` reads each.
    pub(crate) fn items<E: From<Fault>>(
        &mut self,
        depth: u32,
        mut item: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        if depth > MAX_DEPTH {
            return Err(Fault::TooDeep.into());
        }
        if self.space() == b']' {
            self.step();
            return Ok(());
        }
        loop {
            item(self)?;
            match self.space() {
                b',' => self.step(),
                b']' => {
                    self.step();
                    return Ok(());
                }
                _ => return Err(Fault::Syntax(self.at).into()),
            }
        }
    }
}

impl Text<'_> {
    /// Whether the text is this one.
    pub(crate) fn is(self, other: &[u8]) -> bool {
        if !self.escaped {
            return self.raw == other;
        }
        let mut text = Vec::new();
        self.append_to(&mut text);
        text == other
    }

    /// Appends the text with its escapes resolved.
    #[inline]
    pub(crate) fn append_to(self, out: &mut Vec<u8>) {
        if self.escaped { self.unescape(out) } else { out.extend_from_slice(self.raw) }
    }

    #[cold]
    fn unescape(self, out: &mut Vec<u8>) {
        let mut rest = self.raw;
        while let Some(at) = memchr::memchr(b'\\', rest) {
            let (plain, escape) = rest.split_at_checked(at).unwrap_or((rest, &[]));
            out.extend_from_slice(plain);
            let Some((&kind, after)) = escape.get(1..).and_then(<[u8]>::split_first) else { return };
            rest = after;
            let byte = match kind {
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'u' => {
                    rest = unescape_unit(after, out);
                    continue;
                }
                byte => byte,
            };
            out.push(byte);
        }
        out.extend_from_slice(rest);
    }
}

/// Resolves what follows `\u` (checked by the cursor) and returns what is left.
fn unescape_unit<'a>(text: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let unit = |text: &[u8]| {
        let digits = text.first_chunk::<4>()?;
        digits.iter().try_fold(0, |sum, &digit| Some(sum << 4 | char::from(digit).to_digit(16)?))
    };
    let Some(first) = unit(text) else { return &[] };
    let low = text.get(6..).filter(|_| (0xd800..0xdc00).contains(&first)).and_then(unit);
    let (code, taken) = match low {
        Some(low) => (0x10000 + ((first & 0x3ff) << 10 | (low & 0x3ff)), 10),
        None => (first, 4),
    };
    let mut buffer = [0; 4];
    let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
    text.get(taken..).unwrap_or_default()
}
