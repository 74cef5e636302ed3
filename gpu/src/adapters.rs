//! Finding devices and opening one.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::pipelines::Pipelines;
use crate::profile::Profile;

/// Bytes of shared memory of a tile by cooperative matrices, and its threads: of 64 rows and columns, and
/// of 128.
const TILE_64: (u32, u32) = (2 * 64 * 18 * 8 + 4 * 256 * 4, 128);
const TILE_128: (u32, u32) = (2 * 128 * 18 * 8 + 8 * 256 * 4, 256);

/// What sort of device it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceKind {
    /// A card with memory of its own.
    Discrete,
    /// Part of the processor, with the system's memory.
    Integrated,
    /// Of a virtual machine.
    Virtual,
    /// A program that runs on the CPU: used when it is named, and never else.
    Software,
    /// The driver does not say.
    Other,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Discrete => "discrete",
            Self::Integrated => "integrated",
            Self::Virtual => "virtual",
            Self::Software => "software",
            Self::Other => "unknown",
        })
    }
}

/// A device that a driver offers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Its number among [`devices`].
    pub index: usize,
    /// What the driver calls it.
    pub name: String,
    /// The driver and its version.
    pub driver: String,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: &'static str,
    /// What sort it is.
    pub kind: DeviceKind,
    /// Bytes of a buffer at most.
    pub max_buffer: u64,
    /// Bytes of what one dispatch sees of a buffer, at most: matrices above are several dispatches.
    pub max_binding: u64,
    /// Bytes of shared memory of a workgroup.
    pub shared_memory: u32,
    /// Threads of a workgroup at most.
    pub threads: u32,
    /// Threads of a subgroup.
    pub subgroup: [u32; 2],
    /// Half floats in kernels.
    pub half: bool,
    /// A clock that says how long steps take.
    pub clock: bool,
    /// Cooperative matrices of half floats, 16 by 16, with sums in single precision.
    pub matrices: bool,
}

impl DeviceInfo {
    /// Whether tiles of 128 rows and columns run there.
    pub(crate) fn has_large_tiles(&self) -> bool {
        self.shared_memory >= TILE_128.0 && self.threads >= TILE_128.1
    }
}

/// All devices of all drivers.
pub fn devices() -> Vec<DeviceInfo> {
    adapters().iter().enumerate().map(|(index, adapter)| describe(index, adapter)).collect()
}

fn adapters() -> Vec<wgpu::Adapter> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    pollster::block_on(instance.enumerate_adapters(backends))
}

fn describe(index: usize, adapter: &wgpu::Adapter) -> DeviceInfo {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    DeviceInfo {
        index,
        name: info.name,
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        backend: match info.backend {
            wgpu::Backend::Vulkan => "vulkan",
            wgpu::Backend::Metal => "metal",
            wgpu::Backend::Dx12 => "dx12",
            _ => "other",
        },
        kind: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => DeviceKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => DeviceKind::Integrated,
            wgpu::DeviceType::VirtualGpu => DeviceKind::Virtual,
            wgpu::DeviceType::Cpu => DeviceKind::Software,
            wgpu::DeviceType::Other => DeviceKind::Other,
        },
        max_buffer: limits.max_buffer_size,
        max_binding: limits.max_storage_buffer_binding_size,
        shared_memory: limits.max_compute_workgroup_storage_size,
        threads: limits.max_compute_invocations_per_workgroup,
        subgroup: [info.subgroup_min_size, info.subgroup_max_size],
        half: adapter.features().contains(wgpu::Features::SHADER_F16),
        clock: adapter.features().contains(wgpu::Features::TIMESTAMP_QUERY),
        matrices: has_matrices(adapter, &limits),
    }
}

/// Whether the kernels of tiles by cooperative matrices run: in four subgroups of 32 threads.
fn has_matrices(adapter: &wgpu::Adapter, limits: &wgpu::Limits) -> bool {
    let info = adapter.get_info();
    let wanted = wgpu::Features::SHADER_F16 | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
    let of_halves = |p: &wgpu::CooperativeMatrixProperties| {
        let types = (p.ab_type, p.cr_type);
        (p.m_size, p.n_size, p.k_size) == (16, 16, 16)
            && types == (wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32)
    };
    adapter.features().contains(wanted)
        && (info.subgroup_min_size, info.subgroup_max_size) == (32, 32)
        && limits.max_compute_workgroup_storage_size >= TILE_64.0
        && adapter.cooperative_matrix_properties().iter().any(of_halves)
}

/// A device that is open; cheap to clone.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    info: DeviceInfo,
    device: wgpu::Device,
    queue: wgpu::Queue,
    pipelines: Pipelines,
    /// The first thing that went wrong since somebody asked.
    fault: Arc<Mutex<Option<Error>>>,
    profile: Mutex<Option<Profile>>,
}

impl Device {
    /// Opens the device of this number, or whose name has this in it; without either the best one
    /// that is no [`Software`](DeviceKind::Software).
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Driver`], and [`Error::Below`] for less than the least that WebGPU
    /// promises.
    pub fn open(which: Option<&str>) -> Result<Self> {
        let adapters = adapters();
        let infos: Vec<_> = adapters.iter().enumerate().map(|(i, a)| describe(i, a)).collect();
        let index = choose(&infos, which)?;
        let (adapter, info) = (&adapters[index], infos[index].clone());
        let (limits, least) = (adapter.limits(), wgpu::Limits::default());
        if !least.check_limits(&limits) {
            let mut problem = String::new();
            least.check_limits_with_fail_fn(&limits, true, |name, needs, has| {
                problem = format!("{name} is {has}, not {needs}");
            });
            return Err(Error::Below { name: info.name, problem });
        }
        let (features, experimental) = features(&info);
        let descriptor = wgpu::DeviceDescriptor {
            label: None,
            required_features: features,
            required_limits: limits,
            experimental_features: experimental,
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let opened = pollster::block_on(adapter.request_device(&descriptor));
        let (device, queue) = opened.map_err(|error| Error::Driver {
            name: info.name.clone(),
            problem: error.to_string(),
        })?;
        let fault = Arc::new(Mutex::new(None));
        let own = Arc::clone(&fault);
        device.on_uncaptured_error(Arc::new(move |error| {
            note(
                &own,
                match error {
                    wgpu::Error::OutOfMemory { source } => Error::OutOfMemory(source.to_string()),
                    other => Error::Refused(other.to_string()),
                },
            );
        }));
        let own = Arc::clone(&fault);
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                note(&own, Error::Lost(message));
            }
        });
        let (pipelines, profile) = (Pipelines::default(), Mutex::default());
        Ok(Self(Arc::new(Inner { info, device, queue, pipelines, fault, profile })))
    }

    /// What it is.
    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    pub(crate) fn raw(&self) -> &wgpu::Device {
        &self.0.device
    }

    pub(crate) fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    pub(crate) fn pipelines(&self) -> &Pipelines {
        &self.0.pipelines
    }

    pub(crate) fn being_timed(&self) -> &Mutex<Option<Profile>> {
        &self.0.profile
    }

    /// Whether products of many rows are made by cooperative matrices.
    pub(crate) fn has_matrices(&self) -> bool {
        self.0.info.matrices
    }

    /// Says what went wrong since the last time.
    ///
    /// # Errors
    /// That.
    pub fn check(&self) -> Result<()> {
        let mut fault = self.0.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.take().map_or(Ok(()), Err)
    }

    /// Keeps the first of several faults: the others follow from it.
    pub(crate) fn lost(&self, message: impl fmt::Display) -> Error {
        self.check().err().unwrap_or_else(|| Error::Lost(message.to_string()))
    }
}

/// What a device is opened with: half floats, a clock and cooperative matrices, where it has them.
#[expect(unsafe_code, reason = "cooperative matrices are experimental in wgpu")]
fn features(info: &DeviceInfo) -> (wgpu::Features, wgpu::ExperimentalFeatures) {
    let mut features = wgpu::Features::empty();
    features.set(wgpu::Features::SHADER_F16, info.half);
    features.set(wgpu::Features::TIMESTAMP_QUERY, info.clock);
    if !info.matrices {
        return (features, wgpu::ExperimentalFeatures::disabled());
    }
    features.insert(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
    // SAFETY: the one kernel that has them loads and stores whole matrices within its arrays.
    (features, unsafe { wgpu::ExperimentalFeatures::enabled() })
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Device").field(&self.0.info.name).finish()
    }
}

fn note(fault: &Mutex<Option<Error>>, error: Error) {
    let mut fault = fault.lock().unwrap_or_else(PoisonError::into_inner);
    fault.get_or_insert(error);
}

fn choose(infos: &[DeviceInfo], which: Option<&str>) -> Result<usize> {
    let Some(which) = which else {
        let rank = |info: &&DeviceInfo| match info.kind {
            DeviceKind::Discrete => 0,
            DeviceKind::Integrated => 1,
            DeviceKind::Virtual | DeviceKind::Other => 2,
            DeviceKind::Software => 3,
        };
        let hardware = infos.iter().filter(|info| info.kind != DeviceKind::Software);
        return hardware.min_by_key(rank).map(|info| info.index).ok_or_else(|| {
            let problem = match infos {
                [] => "no driver was found".to_owned(),
                _ => format!(
                    "there are only software devices, which must be named: {}",
                    names(infos)
                ),
            };
            Error::Unknown("auto".to_owned(), problem)
        });
    };
    let numbered = which.parse::<usize>().ok().filter(|&index| index < infos.len());
    let name = which.to_lowercase();
    let named = || infos.iter().find(|info| info.name.to_lowercase().contains(&name));
    numbered.or_else(|| named().map(|info| info.index)).ok_or_else(|| {
        let there = if infos.is_empty() { "no driver was found".into() } else { names(infos) };
        Error::Unknown(which.to_owned(), there)
    })
}

fn names(infos: &[DeviceInfo]) -> String {
    let names: Vec<_> =
        infos.iter().map(|info| format!("{} ({})", info.index, info.name)).collect();
    names.join(", ")
}
