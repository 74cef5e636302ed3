//! Pipelines, made once for each text of a kernel.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::adapters::Device;

/// How a kernel uses a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Use {
    Uniform,
    /// A uniform whose place is told with each dispatch.
    Moving,
    Read,
    Write,
}

/// Bindings of one group, by their numbers.
pub(crate) type Layout = Vec<(u32, Use)>;

#[derive(Default)]
pub(crate) struct Pipelines(Mutex<HashMap<String, wgpu::ComputePipeline>>);

impl Pipelines {
    /// The pipeline of a kernel, whose groups are laid out so.
    pub(crate) fn get(
        &self,
        device: &Device,
        text: String,
        groups: &[Layout],
    ) -> wgpu::ComputePipeline {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = known().get(&text) {
            return there.clone();
        }
        // Not under the lock: drivers take seconds for some, and several threads can wait for them.
        let made = make(device, &text, groups);
        known().entry(text).or_insert(made).clone()
    }
}

impl Device {
    /// The texts of all kernels that were asked of the device so far.
    #[doc(hidden)]
    pub fn kernels(&self) -> Vec<String> {
        let known = self.pipelines().0.lock().unwrap_or_else(PoisonError::into_inner);
        known.keys().cloned().collect()
    }
}

pub(crate) fn group_layout(device: &Device, layout: &[(u32, Use)]) -> wgpu::BindGroupLayout {
    let entries: Vec<_> = layout
        .iter()
        .map(|&(binding, used)| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: match used {
                    Use::Uniform | Use::Moving => wgpu::BufferBindingType::Uniform,
                    Use::Read => wgpu::BufferBindingType::Storage { read_only: true },
                    Use::Write => wgpu::BufferBindingType::Storage { read_only: false },
                },
                has_dynamic_offset: used == Use::Moving,
                min_binding_size: None,
            },
            count: None,
        })
        .collect();
    device.raw().create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: None,
        entries: &entries,
    })
}

#[expect(unsafe_code, reason = "the checks of loops that our kernels do without")]
fn make(device: &Device, text: &str, groups: &[Layout]) -> wgpu::ComputePipeline {
    let layouts: Vec<_> = groups.iter().map(|layout| group_layout(device, layout)).collect();
    let layouts: Vec<_> = layouts.iter().map(Some).collect();
    let layout = device.raw().create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &layouts,
        immediate_size: 0,
    });
    // A counter in every loop keeps compilers from unrolling it.
    let checks = wgpu::ShaderRuntimeChecks {
        force_loop_bounding: false,
        ..wgpu::ShaderRuntimeChecks::checked()
    };
    let source =
        wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(text.into()) };
    // SAFETY: the kernels are those of this crate; every loop of theirs counts towards a bound that a
    // parameter gives. Accesses stay checked.
    let module = unsafe { device.raw().create_shader_module_trusted(source, checks) };
    device.raw().create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: Some(&layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &[],
            zero_initialize_workgroup_memory: false,
        },
        cache: None,
    })
}
