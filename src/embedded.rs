//! The model that is compiled in: see `models/README.md` for what it is and how it was made.

use crate::model::{Loader, Model};

static STORIES: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/stories.gguf"));

impl Model {
    /// Says how to load the model that is part of this crate: a small teller of children's
    /// stories, there to see the engine work without a download.
    ///
    /// ```
    /// use goldcrest::{GenerationParams, Model};
    ///
    /// let model = Model::embedded().load()?;
    /// let mut session = model.session()?;
    /// session.push(&model.tokenizer()?.encode("Once upon a time")?)?;
    /// let story = GenerationParams::greedy().max_tokens(8);
    /// let text: Result<String, _> = session.generate(story)?.map(|t| t.map(|t| t.text)).collect();
    /// assert!(!text?.is_empty());
    /// # Ok::<(), goldcrest::Error>(())
    /// ```
    pub fn embedded() -> Loader {
        Self::from_bytes("(embedded)", STORIES)
    }
}
