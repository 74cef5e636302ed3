//! Weights and the optimiser's state in safetensors files.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, input, io};
use crate::model::Model;
use crate::optimizer::{AdamW, Moments};
use crate::preset::Dimensions;

/// The key of [`Head`] among a file's metadata.
const HEAD: &str = "goldcrest-train";

/// What a file says apart from its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) dimensions: Dimensions,
    /// Steps done.
    pub(crate) step: u64,
    /// What data, dropout and first weights were made from. With the step it is all the state
    /// that the random numbers have.
    pub(crate) seed: u64,
    /// Least held-out loss so far, and the evaluations since.
    pub(crate) best: Option<(f64, u32)>,
}

type Tensors = Vec<(String, Vec<usize>, Vec<u8>)>;

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Writes tensors through a file beside it, so that a stop half-way leaves the old one.
pub(crate) fn write(
    path: &Path,
    tensors: &Tensors,
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    let tensor_error = |source| Error::Tensors { path: path.into(), source };
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(tensor_error)?;
    let data = safetensors::serialize(views, metadata).map_err(tensor_error)?;
    let part = path.with_extension("part");
    fs::write(&part, data).map_err(io(&part))?;
    fs::rename(&part, path).map_err(io(path))
}

fn weights(model: &Model) -> Result<Tensors> {
    let tensor = |weight: &crate::model::Weight| {
        let values: Vec<f32> = weight.var.flatten_all()?.to_vec1()?;
        Ok((format!("model.{}", weight.name), weight.var.dims().to_vec(), bytes(&values)))
    };
    model.weights().iter().map(tensor).collect()
}

/// Writes weights, and the optimiser's moments if they are given.
pub(crate) fn save(
    path: &Path,
    head: &Head,
    model: &Model,
    optimizer: Option<&mut AdamW>,
) -> Result<()> {
    let mut tensors = weights(model)?;
    if let Some(optimizer) = optimizer {
        for (weight, moments) in model.weights().iter().zip(optimizer.moments()) {
            for (kind, values) in [("first", &moments.first), ("second", &moments.second)] {
                let name = format!("{kind}.{}", weight.name);
                tensors.push((name, weight.var.dims().to_vec(), bytes(values)));
            }
        }
    }
    let head = HashMap::from([(HEAD.into(), serde_json::to_string(head)?)]);
    write(path, &tensors, Some(head))
}

/// A file that was opened.
pub(crate) struct Opened {
    path: std::path::PathBuf,
    data: Vec<u8>,
    pub(crate) head: Head,
}

impl Opened {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let data = fs::read(path).map_err(io(path))?;
        let (_, metadata) = SafeTensors::read_metadata(&data)
            .map_err(|source| Error::Tensors { path: path.into(), source })?;
        let head = metadata.metadata().as_ref().and_then(|map| map.get(HEAD));
        let Some(head) = head else {
            return input(format!("{}: no checkpoint of goldcrest-train", path.display()));
        };
        Ok(Self { head: serde_json::from_str(head)?, path: path.into(), data })
    }

    fn values(&self, file: &SafeTensors, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = file
            .tensor(name)
            .map_err(|source| Error::Tensors { path: self.path.clone(), source })?;
        if tensor.shape() != shape || tensor.dtype() != Dtype::F32 {
            let have = tensor.shape();
            return input(format!("{}: {name} is {have:?}, not {shape:?}", self.path.display()));
        }
        Ok(tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    fn file(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.data)
            .map_err(|source| Error::Tensors { path: self.path.clone(), source })
    }

    pub(crate) fn model(&self) -> Result<Model> {
        let file = self.file()?;
        Model::from_values(&self.head.dimensions, |name, shape| {
            self.values(&file, &format!("model.{name}"), shape)
        })
    }

    pub(crate) fn optimizer(&self, model: &Model) -> Result<AdamW> {
        let file = self.file()?;
        let moments = |weight: &crate::model::Weight| {
            let values = |kind: &str| {
                self.values(&file, &format!("{kind}.{}", weight.name), weight.var.dims())
            };
            Ok(Moments { first: values("first")?, second: values("second")? })
        };
        let moments = model.weights().iter().map(moments).collect::<Result<_>>()?;
        Ok(AdamW::from_moments(moments, self.head.step))
    }
}

impl Model {
    /// Reads the weights of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Tensors`], [`Error::Input`] if it is no checkpoint.
    pub fn open(path: &Path) -> Result<Self> {
        Opened::open(path)?.model()
    }
}
