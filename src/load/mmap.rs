//! Bytes of files, mapped or read, and large zeroed buffers for packed weights.
#![allow(unsafe_code)] // `mmap` and `madvise` have no safe interface; each use says why it is sound

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::Read;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::{Mmap, MmapMut};

use crate::error::{Error, Result, format_error};

const HUGE_PAGE: usize = 2 << 20;
/// A multiple of every page size in use (4, 16 and 64 KB), and the kernel's default fault-around.
#[cfg(unix)]
const RELEASE_GRANULE: usize = 64 << 10;

/// The bytes of one file.
#[derive(Debug)]
pub(super) enum Bytes {
    Mapped(Mmap),
    Read(Buffer),
    Given(Cow<'static, [u8]>),
}

impl Bytes {
    /// Maps or reads the regular file at `path`.
    pub(super) fn open(path: &Path, map: bool) -> Result<Self> {
        // Asked before opening: opening a named pipe would wait for its other end.
        let info = fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if !info.is_file() {
            return Err(format_error("not a regular file").at(path));
        }
        let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
        let len = file.metadata().map_err(|e| Error::io(path, e))?.len();
        let len = usize::try_from(len)
            .map_err(|_| format_error("larger than the address space").at(path))?;
        if len == 0 {
            return Ok(Self::Given(Cow::Borrowed(&[])));
        }
        if map {
            // SAFETY: the mapping is read-only and private to this value. Another program that rewrites the
            // file while it is mapped can change or take away these bytes; that is the documented exception
            // of `ReadOptions::mmap`, and `mmap: false` avoids it.
            let mapped = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
            return Ok(Self::Mapped(mapped));
        }
        let mut buffer = Buffer::zeroed(len).map_err(|e| e.at(path))?;
        file.read_exact(buffer.as_mut_slice()).map_err(|e| Error::io(path, e))?;
        Ok(Self::Read(buffer))
    }

    /// Gives pages that lie in `range` back to the system; they come back from the file when touched again.
    pub(super) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            let start = range.start / RELEASE_GRANULE * RELEASE_GRANULE;
            let end = range.end.min(map.len()) / RELEASE_GRANULE * RELEASE_GRANULE;
            if start < end {
                // SAFETY: the range lies in the mapping, which is shared, file-backed and never written by
                // this process: a dropped page is read from the file again, so no byte seen through `&self`
                // changes. A refusal costs memory, nothing else.
                let _ = unsafe {
                    map.unchecked_advise_range(
                        memmap2::UncheckedAdvice::DontNeed,
                        start,
                        end - start,
                    )
                };
            }
        }
        // Windows trims a mapping's clean pages by itself, and has no call that asks for it.
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Asks for the pages of `range` ahead of their use, in large pages where a file can have them.
    pub(super) fn will_need(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self
            && range.start < range.end
            && range.end <= map.len()
        {
            // Refusals cost speed, nothing else.
            let len = range.end - range.start;
            #[cfg(target_os = "linux")]
            let _ = map.advise_range(memmap2::Advice::HugePage, range.start, len);
            let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, len);
        }
        // Elsewhere pages come as they are touched.
        #[cfg(not(unix))]
        let _ = range;
    }

    pub(super) fn is_mapped(&self) -> bool {
        matches!(self, Self::Mapped(_))
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Read(buffer) => buffer,
            Self::Given(bytes) => bytes,
        }
    }
}

/// A zeroed byte buffer for packed weights and caches.
///
/// From 2 MB up it starts on a 2 MB boundary and asks for huge pages, which a memory-bound matrix product
/// turns into a tenth more bandwidth; smaller ones start on a page. Pages are used as they are first touched,
/// so a large buffer costs what was written to it.
///
/// ```
/// let mut buffer = goldcrest::load::Buffer::zeroed(3 << 20)?;
/// buffer.as_mut_slice()[17] = 1;
/// assert_eq!(buffer.as_ptr() as usize % (2 << 20), 0);
/// assert_eq!(buffer.iter().map(|&b| b as u32).sum::<u32>(), 1);
/// # Ok::<(), goldcrest::Error>(())
/// ```
#[derive(Debug)]
pub struct Buffer {
    map: MmapMut,
    start: usize,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` zero bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when the system has no such address range to give.
    pub fn zeroed(len: usize) -> Result<Self> {
        let buffer = Self::map(len)?;
        #[cfg(target_os = "linux")]
        if len >= HUGE_PAGE {
            // A kernel without huge pages refuses; the buffer works all the same.
            let _ = buffer.map.advise_range(memmap2::Advice::HugePage, buffer.start, len);
        }
        Ok(buffer)
    }

    /// A buffer of `len` zero bytes of which parts may never be used, such as a cache: ordinary
    /// pages, so that a touched byte costs 4 KB of memory, not 2 MB.
    ///
    /// # Errors
    /// As [`zeroed`](Self::zeroed).
    pub fn sparse(len: usize) -> Result<Self> {
        let buffer = Self::map(len)?;
        #[cfg(target_os = "linux")]
        if len >= HUGE_PAGE {
            let _ = buffer.map.advise(memmap2::Advice::NoHugePage);
        }
        Ok(buffer)
    }

    fn map(len: usize) -> Result<Self> {
        let slack = if len >= HUGE_PAGE { HUGE_PAGE } else { 0 };
        let refused = |e: std::io::Error| {
            Error::new(crate::ErrorKind::Io, format!("no memory for {len} bytes: {e}")).because(e)
        };
        let total = len
            .max(1)
            .checked_add(slack)
            .ok_or_else(|| refused(std::io::ErrorKind::OutOfMemory.into()))?;
        let map = MmapMut::map_anon(total).map_err(refused)?;
        let start = if slack == 0 { 0 } else { map.as_ptr().align_offset(HUGE_PAGE) };
        Ok(Self { map, start, len })
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the buffer has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Gives whole pages that lie in `range` back to the system: they are zero when they are touched again.
    #[cfg(feature = "gpu")]
    pub(crate) fn forget(&mut self, range: Range<usize>) {
        #[cfg(unix)]
        {
            let start = (self.start + range.start).next_multiple_of(RELEASE_GRANULE);
            let end = (self.start + range.end.min(self.len)) / RELEASE_GRANULE * RELEASE_GRANULE;
            if start < end {
                // SAFETY: the range lies in the mapping, which is private and anonymous, and nobody else
                // sees it through `&mut self`. A refusal costs memory, nothing else.
                let _ = unsafe {
                    self.map.unchecked_advise_range(
                        memmap2::UncheckedAdvice::DontNeed,
                        start,
                        end - start,
                    )
                };
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// The bytes, to write.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.len]
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn buffers_are_aligned_and_zero() {
        for len in [0, 1, 4097, HUGE_PAGE - 1, HUGE_PAGE, 3 * HUGE_PAGE + 5] {
            let mut buffer = Buffer::zeroed(len).unwrap();
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&b| b == 0));
            let align = if len >= HUGE_PAGE { HUGE_PAGE } else { 64 };
            assert_eq!(buffer.as_ptr() as usize % align, 0);
            buffer.as_mut_slice().fill(7);
            assert!(buffer.iter().all(|&b| b == 7));
        }
        assert!(Buffer::zeroed(usize::MAX).is_err());
        fn shared<T: Send + Sync>() {}
        shared::<Buffer>();
    }

    #[test]
    fn released_pages_come_back() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..1 << 20).map(|i: u32| ((i * 31) >> 3) as u8).collect();
        file.write_all(&content).unwrap();
        let mapped = Bytes::open(file.path(), true).unwrap();
        assert!(mapped.is_mapped());
        assert_eq!(&mapped[..], &content[..]);
        mapped.release(100..content.len() - 100);
        mapped.release(0..usize::MAX);
        assert_eq!(&mapped[..], &content[..]);
        let read = Bytes::open(file.path(), false).unwrap();
        read.release(0..content.len());
        assert_eq!(&read[..], &content[..]);
    }

    #[test]
    #[cfg(all(unix, feature = "gpu"))]
    fn forgotten_pages_are_zero_and_their_neighbours_are_not() {
        let mut buffer = Buffer::zeroed(10 * RELEASE_GRANULE).unwrap();
        buffer.as_mut_slice().fill(7);
        buffer.forget(RELEASE_GRANULE + 1..usize::MAX);
        assert!(buffer[..2 * RELEASE_GRANULE].iter().all(|&byte| byte == 7));
        assert!(buffer[2 * RELEASE_GRANULE..9 * RELEASE_GRANULE].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn only_regular_files() {
        assert!(Bytes::open(Path::new("/"), true).is_err());
        #[cfg(unix)]
        assert!(Bytes::open(Path::new("/dev/zero"), false).is_err());
        let empty = tempfile::NamedTempFile::new().unwrap();
        assert!(Bytes::open(empty.path(), true).unwrap().is_empty());
    }
}
