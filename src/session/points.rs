//! Save points: where a session can come back to.

use super::{CancelToken, Session};
use crate::error::{Result, input_error};
use crate::state::SavePoint;

/// A state and the logits after it.
#[derive(Debug)]
pub(super) struct Point {
    state: SavePoint,
    logits: Vec<f32>,
}

impl Point {
    /// Tokens that it covers.
    pub(super) fn len(&self) -> usize {
        self.state.len()
    }
}

impl Session {
    /// Makes a save point of the context as it is: [`truncate`](Self::truncate) and
    /// [`rewind`](Self::rewind) come back to it without running a token again, in models whose layers
    /// have a recurrent state, too. So that many texts with one beginning run it once.
    ///
    /// It keeps a copy of the recurrent states, of the keys and values of layers with a window, and
    /// of the logits: megabytes, where a model has the former. It is given up when the context is cut
    /// before it, or by [`forget`](Self::forget).
    ///
    /// ```no_run
    /// # let model = goldcrest::Model::open("model.gguf")?;
    /// # let questions: Vec<Vec<u32>> = Vec::new();
    /// let mut session = model.session()?;
    /// session.push(&model.tokenizer()?.encode("A long beginning.")?)?;
    /// session.save()?;
    /// let len = session.tokens().len();
    /// for question in questions {
    ///     session.push(&question)?;
    ///     session.rewind(len)?;
    /// }
    /// # Ok::<(), goldcrest::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) where the context is empty,
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) where there is no memory, and those of
    /// [`push`](Self::push): a generated token may still have to run.
    pub fn save(&mut self) -> Result<()> {
        if self.ids.is_empty() {
            return Err(input_error("there is nothing to save: the context is empty"));
        }
        self.catch_up(CancelToken::never())?;
        if self.points.last().is_none_or(|point| point.len() < self.ids.len()) {
            let state = self.run.state.save()?;
            self.points.push(Point { state, logits: self.run.logits.clone() });
        }
        Ok(())
    }

    /// How many tokens each save point covers, fewest first.
    pub fn save_points(&self) -> impl Iterator<Item = usize> {
        self.points.iter().map(Point::len)
    }

    /// Gives up the save point after `len` tokens; whether there was one.
    pub fn forget(&mut self, len: usize) -> bool {
        let before = self.points.len();
        self.points.retain(|point| point.len() != len);
        self.points.len() < before
    }

    /// Keeps the first `len` tokens of the context, where that needs no token but the last to run
    /// again; [`truncate`](Self::truncate) does it in any case.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) where the context has fewer tokens, or the state
    /// after them is gone: a recurrent state goes back to [save points](Self::save) only, and so does
    /// a layer with a window beyond what it keeps. The context is as before.
    pub fn rewind(&mut self, len: usize) -> Result<()> {
        let have = self.ids.len();
        if len > have {
            return Err(input_error(format!("cannot rewind to {len} tokens: there are {have}")));
        }
        let saved = self.save_points().any(|point| point == len);
        // What has not run needs no way back; the last token runs again for its logits.
        if len == 0 || saved || self.covered() <= len || self.run.state.reaches(len - 1) {
            self.truncate(len);
            return Ok(());
        }
        let points: Vec<_> = self.save_points().map(|len| len.to_string()).collect();
        Err(input_error(format!(
            "cannot rewind to {len} tokens: a layer with a recurrent state or a window has passed by \
             (save points: {})",
            if points.is_empty() { "none".to_owned() } else { points.join(", ") }
        )))
    }

    /// Makes the state cover no more than the first `len` tokens of the context, and of those as many as
    /// it can.
    pub(super) fn go_back(&mut self, len: usize) {
        let Self { run, points, ids, .. } = self;
        let last = points.iter().rev().find(|point| point.len() <= len);
        let there = run.state.len() <= len;
        match last {
            // It has the logits, too.
            Some(point) if point.len() == ids.len() => {
                run.state.restore(&point.state);
                run.logits.clone_from(&point.logits);
                self.logits_after = ids.len();
            }
            _ if there || run.state.reaches(len) => {
                run.state.rewind(len);
            }
            Some(point) => run.state.restore(&point.state),
            None => {
                run.state.rewind(0);
            }
        }
    }
}
