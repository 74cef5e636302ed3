//! Several residual streams.

use super::{Loaded, Plan};
use crate::error::Result;
use crate::spec::{Correct, Named, Predict, Router, Streams};

impl Plan<'_> {
    pub(super) fn streams(&mut self, streams: &Streams<Named>) -> Result<Streams<Loaded>> {
        Ok(Streams {
            count: streams.count,
            split: self.of_heads(&streams.split)?,
            join: self.of_heads(&streams.join)?,
        })
    }

    pub(super) fn predict(&mut self, mixer: &Predict<Named>) -> Result<Predict<Loaded>> {
        Ok(Predict {
            router: self.router(&mixer.router)?,
            coefficients: self.vector(&mixer.coefficients)?,
        })
    }

    pub(super) fn correct(&mut self, mixer: &Correct<Named>) -> Result<Correct<Loaded>> {
        Ok(Correct {
            router: self.router(&mixer.router)?,
            coefficients: self.vector(&mixer.coefficients)?,
            scale: self.optional_vector(mixer.scale.as_ref())?,
        })
    }

    fn router(&mut self, router: &Router<Named>) -> Result<Router<Loaded>> {
        let Router { count, active, .. } = *router;
        Ok(Router { count, active, weights: self.vector(&router.weights)? })
    }
}
