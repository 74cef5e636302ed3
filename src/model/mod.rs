//! Models: weights ready to run, and how to load them.

#[cfg(feature = "gpu")]
pub(crate) mod device;
mod memory;
mod need;
#[cfg(test)]
mod panics;
mod pass;
mod queue;
mod weights;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use goldcrest_kernels::{Format, Isa, Kernels, KvType};

#[cfg(feature = "chat")]
use crate::chat::ChatTemplate;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result, config_error, input_error, unsupported};
use crate::load::{Checkpoint, ReadOptions};
use crate::session::{CancelToken, Session, SessionOptions};
use crate::spec::Spec;
use crate::state::{State, state_bytes};
use crate::threads::{Team, choose_threads};
use crate::tokenizer::Tokenizer;
pub(crate) use need::DEFAULT_CONTEXT;
use need::{Context, Fixed, Known, Need};
pub(crate) use pass::{BATCH, Run};
use pass::{Engine, Graph, scratch_bytes};
use queue::Queue;
pub(crate) use queue::Seat;
use weights::{Loaded, Watch, Weights, save};

/// The environment variable that chooses the instruction set where the program does not.
const ISA_VARIABLE: &str = "GOLDCREST_ISA";

/// A loaded model: immutable, shared between threads, cheap to clone.
///
/// Forward passes of all its sessions run on one team of worker threads, one pass at a time. Sessions
/// in different threads share passes: all that wait for the next token get it from one pass, which
/// reads the weights once. What a session computes does not depend on that, bit for bit.
///
/// ```no_run
/// use goldcrest::{Model, SamplingParams};
///
/// let model = Model::open("model.gguf")?;
/// let mut session = model.session()?;
/// session.push(&model.tokenizer()?.encode("Once upon a time")?)?;
/// for token in session.generate(SamplingParams::default())? {
///     print!("{}", token?.text);
/// }
/// # Ok::<(), goldcrest::Error>(())
/// ```
#[derive(Clone)]
pub struct Model(Arc<Inner>);

/// What chatting needs of a checkpoint.
#[cfg(feature = "chat")]
struct Chat {
    /// Or why there is none.
    template: Result<ChatTemplate, String>,
    tokens: serde_json::Map<String, serde_json::Value>,
}

#[cfg(feature = "chat")]
impl Chat {
    fn of(checkpoint: &Checkpoint) -> Self {
        let template = match ChatTemplate::from_checkpoint(checkpoint) {
            Ok(template) => template.ok_or_else(|| "the model has no chat template".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        Self { template, tokens: crate::chat::tokens(checkpoint) }
    }
}

struct Inner {
    path: PathBuf,
    config: Config,
    graph: Graph,
    tokenizer: Option<Tokenizer>,
    tokenizer_error: Option<String>,
    #[cfg(feature = "chat")]
    chat: Chat,
    end_ids: Vec<u32>,
    context: usize,
    kv: KvType,
    threads: usize,
    queue: Queue,
    /// The device that spans run on, and which.
    #[cfg(feature = "gpu")]
    gpu: Option<(Arc<device::Shared>, device::Offload)>,
}

impl Model {
    /// Loads a GGUF file, a Hugging Face folder or a packed file with the defaults of [`loader`](Self::loader).
    ///
    /// # Errors
    /// As [`Loader::load`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::loader(path).load()
    }

    /// Says how to load the file or folder at `path`.
    pub fn loader(path: impl AsRef<Path>) -> Loader {
        Self::loader_of(path.as_ref().to_path_buf(), None)
    }

    /// Says how to load a GGUF file or a packed file that is in memory. `name` stands for its
    /// path.
    ///
    /// ```no_run
    /// use goldcrest::Model;
    /// let model = Model::from_bytes("from the net", std::fs::read("model.gguf")?).load()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_bytes(name: impl AsRef<Path>, bytes: impl Into<Cow<'static, [u8]>>) -> Loader {
        Self::loader_of(name.as_ref().to_path_buf(), Some(bytes.into()))
    }

    fn loader_of(path: PathBuf, bytes: Option<Cow<'static, [u8]>>) -> Loader {
        Loader {
            path,
            bytes,
            threads: None,
            context: Context::Usual,
            memory: Known::System,
            memory_check: true,
            isa: None,
            kv: KvType::F16,
            mmap: true,
            quantize: None,
            deterministic: false,
            #[cfg(feature = "gpu")]
            gpu: None,
            progress: Box::new(|_, _| ()),
            cancel: CancelToken::default(),
        }
    }

    /// The file or folder that the model came from.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The model's dimensions and constants.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`](crate::ErrorKind::Tokenizer) when the file has none, or one that
    /// is not understood; ids still run.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.0.tokenizer.as_ref().ok_or_else(|| {
            let why = self.0.tokenizer_error.as_deref().unwrap_or("the model has no tokenizer");
            crate::error::tokenizer_error(why).at(&self.0.path)
        })
    }

    /// The chat template that the model came with.
    ///
    /// # Errors
    /// [`ErrorKind::Template`](crate::ErrorKind::Template) when it has none, or a wrong one.
    #[cfg(feature = "chat")]
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        self.0.chat.template.as_ref().map_err(|why| {
            crate::Error::new(crate::ErrorKind::Template, why.clone()).at(&self.0.path)
        })
    }

    /// Gives another template the texts of this model's special tokens.
    #[cfg(feature = "chat")]
    pub fn for_chat(&self, template: ChatTemplate) -> ChatTemplate {
        template.with_tokens(self.0.chat.tokens.clone())
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.0.graph.kernels.isa()
    }

    /// Worker threads of a forward pass.
    pub fn threads(&self) -> usize {
        self.0.threads
    }

    /// Positions of a session's context, unless it asks for fewer.
    pub fn context(&self) -> usize {
        self.0.context
    }

    /// The number format of keys and values.
    pub fn kv(&self) -> KvType {
        self.0.kv
    }

    /// Bytes of weights that a decoded token reads.
    pub fn weight_bytes(&self) -> u64 {
        self.0.graph.weights.bytes_per_token
    }

    /// A session with an empty context.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when there is no memory for its keys and values.
    pub fn session(&self) -> Result<Session> {
        self.session_with(SessionOptions::default())
    }

    /// A session of its own size.
    ///
    /// # Errors
    /// As [`session`](Self::session), and [`ErrorKind::Input`](crate::ErrorKind::Input) for a
    /// context of 0 or beyond the model's.
    pub fn session_with(&self, options: SessionOptions) -> Result<Session> {
        Session::new(self.clone(), options)
    }

    /// Tokens of a prompt that go through in one pass.
    pub(crate) fn batch(&self) -> usize {
        self.0.graph.batch()
    }

    /// Runs the tokens of a session in the next pass that has room for them.
    pub(crate) fn run(&self, run: &mut Run, seat: &Arc<Seat>) -> Result<()> {
        self.0.queue.run(&self.0.graph, run, seat)
    }

    /// Where the parts of the model run; `None` where all of it runs on the CPU.
    #[cfg(feature = "gpu")]
    pub fn offload(&self) -> Option<&device::Offload> {
        self.0.gpu.as_ref().map(|(_, offload)| offload)
    }

    /// A probe of how fast the device reads its memory; `None` where all of the model runs on the CPU.
    ///
    /// # Errors
    /// [`ErrorKind::Memory`], [`ErrorKind::Device`](crate::ErrorKind::Device).
    #[cfg(feature = "gpu")]
    pub fn device_bandwidth(&self) -> Result<Option<goldcrest_gpu::Bandwidth>> {
        self.0.gpu.as_ref().map(|(shared, _)| shared.bandwidth()).transpose()
    }

    /// Times the device at every step of the passes that follow, which take longer for it; does nothing
    /// where all of the model runs on the CPU.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device) where its driver has no clock.
    #[cfg(feature = "gpu")]
    pub fn start_device_timing(&self) -> Result<()> {
        self.0.gpu.as_ref().map_or(Ok(()), |(shared, _)| shared.start_timing())
    }

    /// Ends that; what took the longest comes first.
    #[cfg(feature = "gpu")]
    pub fn end_device_timing(&self) -> Vec<goldcrest_gpu::Timing> {
        self.0.gpu.as_ref().map(|(shared, _)| shared.end_timing()).unwrap_or_default()
    }

    /// Room for keys and values of `context` positions.
    pub(crate) fn state(&self, context: usize) -> Result<State> {
        #[cfg(feature = "gpu")]
        if let Some((shared, _)) = &self.0.gpu {
            let elsewhere = (|kept| shared.keeps(kept), shared.cache(context)?);
            return State::with_device(self.0.graph.spec(), self.0.kv, context, elsewhere);
        }
        State::new(self.0.graph.spec(), self.0.kv, context)
    }

    /// Tokens that end a generation: the tokenizer's, and those that the checkpoint lists.
    pub(crate) fn end_ids(&self) -> &[u32] {
        &self.0.end_ids
    }

    pub(crate) fn kernels(&self) -> &'static Kernels {
        self.0.graph.kernels
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("path", &self.0.path)
            .field("config", self.config())
            .field("isa", &self.isa())
            .field("threads", &self.0.threads)
            .finish_non_exhaustive()
    }
}

/// How to load a model; made by [`Model::loader`].
///
/// ```no_run
/// use goldcrest::{Isa, Model};
/// let model = Model::loader("model.gguf").threads(4).context(2048).isa(Isa::Avx2).load()?;
/// # Ok::<(), goldcrest::Error>(())
/// ```
#[must_use = "nothing is loaded before `load`"]
pub struct Loader {
    path: PathBuf,
    /// The file's content, where it is not to be read from the path.
    bytes: Option<Cow<'static, [u8]>>,
    threads: Option<usize>,
    context: Context,
    memory: Known,
    memory_check: bool,
    isa: Option<Isa>,
    kv: KvType,
    mmap: bool,
    quantize: Option<Format>,
    deterministic: bool,
    /// The device, and how many layers.
    #[cfg(feature = "gpu")]
    gpu: Option<(Option<String>, device::GpuLayers)>,
    progress: Box<dyn Fn(u64, u64) + Send + Sync>,
    cancel: CancelToken,
}

impl Loader {
    /// Worker threads, the caller's included, 1 to 1024; loading and packing take as many. Default:
    /// the physical cores that the process may use.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Positions of a context. Default: the model's, 4096 at most.
    ///
    /// A model with LongRoPE has the frequencies for long contexts if this is more than it was
    /// pre-trained for, whatever the length of a text.
    pub fn context(mut self, context: usize) -> Self {
        self.context = Context::Of(context);
        self
    }

    /// The longest context, up to the model's, that fits into nine tenths of the memory at hand beside
    /// the weights; those of a packed file count, so that they can stay in memory. Where the system
    /// does not tell what is at hand, the default of [`context`](Self::context).
    pub fn longest_context(mut self) -> Self {
        self.context = Context::Longest;
        self
    }

    /// Whether a model that needs more memory than there is at hand is refused (the default) or
    /// loaded all the same.
    ///
    /// The need is the weights, one session's keys, values and recurrent states, and the buffers of
    /// passes. Weights of a packed file that is mapped do not count: the system takes their pages back
    /// where memory is short, and reads them again, which is slow. At hand is what Linux calls
    /// available, or what the limits of the process's control groups leave, if that is less; swap does
    /// not count. Other systems are not asked, and nothing is checked there. Nor are further
    /// sessions.
    pub fn memory_check(mut self, check: bool) -> Self {
        self.memory_check = check;
        self
    }

    /// Bytes of memory at hand, in place of what the system tells.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Known::Caller(bytes);
        self
    }

    /// The instruction set. Default: what `GOLDCREST_ISA` names, else the best of this machine.
    pub fn isa(mut self, isa: Isa) -> Self {
        self.isa = Some(isa);
        self
    }

    /// The number format of keys and values. Default: half floats.
    pub fn kv(mut self, kv: KvType) -> Self {
        self.kv = kv;
        self
    }

    /// Whether to map the file (the default, see [`ReadOptions::mmap`]) or read it.
    pub fn mmap(mut self, mmap: bool) -> Self {
        self.mmap = mmap;
        self
    }

    /// Quantises float matrices while they are packed, to one of [`quantizers`](Self::quantizers).
    ///
    /// Matrices that the file has quantised already, and those whose width is no multiple of the
    /// format's block, stay as they are, and so do the routers of experts. The output matrix gets
    /// [`Format::Q8_0`] beside [`Format::Q4_0`] and [`Format::Q6_K`] beside other formats of fewer bits, or
    /// [`Format::Q8_0`] where its width is no multiple of 256.
    /// Matrices of a packed file cannot change any more: where they would, loading it is an error.
    pub fn quantize(mut self, format: Format) -> Self {
        self.quantize = Some(format);
        self
    }

    /// The formats that float matrices can be quantised to.
    pub fn quantizers() -> impl Iterator<Item = Format> {
        Format::ALL.iter().copied().filter(|f| f.block_len() > 1 && f.can_quantize())
    }

    /// Whether the same file, prompt and seed are to give the same tokens and log-probabilities, bit
    /// for bit, on every machine.
    ///
    /// Attention and products of float weights then go without fused multiply-add, which not every
    /// processor has; they are slower where there is one. All else has the same bits in either mode.
    /// In both modes a text has the same bits on any number of threads and however it is cut into
    /// calls.
    pub fn deterministic(mut self, deterministic: bool) -> Self {
        self.deterministic = deterministic;
        self
    }

    /// Runs the last layers on a GPU: the one of this number or with this in its name, as
    /// [`goldcrest_gpu::devices`] has them, or without either the best one that is no software.
    ///
    /// What the device has no kernels for stays on the CPU; [`Model::offload`] says where each block
    /// is. Its texts are the same every time, but not those of the CPU, nor of another device; and what
    /// is run beside a text may show in its last bits.
    #[cfg(feature = "gpu")]
    pub fn gpu(mut self, device: Option<&str>, layers: device::GpuLayers) -> Self {
        self.gpu = Some((device.map(str::to_owned), layers));
        self
    }

    /// Is told how many bytes are packed, and of how many, from time to time.
    pub fn progress(mut self, progress: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        self.progress = Box::new(progress);
        self
    }

    /// Lets another thread end the loading, or the packing, within some megabytes.
    pub fn cancel(mut self, token: CancelToken) -> Self {
        self.cancel = token;
        self
    }

    /// Loads the model.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`] and [`Checkpoint::check`];
    /// [`ErrorKind::Tensor`](crate::ErrorKind::Tensor) for weights that are not finite;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for an instruction set that this
    /// machine lacks; [`ErrorKind::Input`](crate::ErrorKind::Input) for settings out of range;
    /// [`ErrorKind::Device`](crate::ErrorKind::Device) for a GPU that does not do what it should;
    /// [`ErrorKind::Memory`](crate::ErrorKind::Memory) as [`memory_check`](Self::memory_check) says;
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
    pub fn load(mut self) -> Result<Model> {
        let checkpoint = self.checkpoint()?;
        self.load_from(checkpoint)
    }

    /// Loads the model of a checkpoint that is open.
    pub(crate) fn load_from(self, checkpoint: Checkpoint) -> Result<Model> {
        let kernels = choose_kernels(self.isa, self.deterministic)?;
        let threads = choose_threads(self.threads)?;
        self.check_quantize()?;
        let decoder = checkpoint.decoder()?;
        let spec = checkpoint.spec(&decoder)?;
        let config = decoder.config;
        #[cfg(feature = "chat")]
        let chat = Chat::of(&checkpoint);
        #[cfg(feature = "gpu")]
        let mut gpu = self.open_gpu()?;
        let ((tokenizer, end_ids), graph, context) = on_threads(threads, || {
            let tokenizer = self.tokenizer(&checkpoint, &config)?;
            let watch = Watch { progress: &*self.progress, cancel: &self.cancel };
            let mut context = 0;
            let room = |spec: &Spec<Loaded>, fixed: Fixed| {
                let passes = scratch_bytes(spec, kernels, threads)?;
                #[cfg(feature = "gpu")]
                let elsewhere = gpu.as_mut().map(|gpu| gpu.place(spec)).unwrap_or_default();
                #[cfg(not(feature = "gpu"))]
                let elsewhere = Vec::<usize>::new();
                let elsewhere = |kept| elsewhere.contains(&kept);
                let state =
                    |kv, context| state_bytes(spec, kv, context, elsewhere)?.try_into().ok();
                let fixed = Fixed { passes, ..fixed };
                let longest = config.context_length;
                let need = Need { fixed, state: &state, kv: self.kv, longest };
                let at_hand = self.memory.at_hand();
                context = need.context(self.context, at_hand.as_ref(), self.memory_check)?;
                Ok(())
            };
            let weights = Weights::load(checkpoint, &spec, self.quantize, &watch, room);
            let graph = weights.and_then(|weights| Graph::new(weights, kernels, context));
            Ok((tokenizer, graph.map_err(|e| e.at(&self.path))?, context))
        })?;
        #[cfg(feature = "gpu")]
        let (graph, gpu) = match gpu {
            Some(gpu) => gpu.take_spans(graph).map(|(graph, gpu)| (graph, Some(gpu)))?,
            None => (graph, None),
        };
        let (tokenizer, tokenizer_error) = match tokenizer {
            Ok(tokenizer) => (tokenizer, None),
            Err(error) => (None, Some(error.to_string())),
        };
        Ok(Model(Arc::new(Inner {
            path: self.path,
            config,
            graph,
            tokenizer,
            tokenizer_error,
            #[cfg(feature = "chat")]
            chat,
            end_ids,
            context,
            kv: self.kv,
            threads,
            queue: Queue::new(Engine::new(Team::new(threads)?)),
            #[cfg(feature = "gpu")]
            gpu,
        })))
    }

    /// The device that is asked for, open.
    #[cfg(feature = "gpu")]
    fn open_gpu(&self) -> Result<Option<device::Request>> {
        let Some((which, layers)) = &self.gpu else { return Ok(None) };
        if self.deterministic {
            let problem =
                "a GPU does not give the same bits as every CPU: not with `deterministic`";
            return Err(input_error(problem));
        }
        device::Request::open(which.as_deref(), *layers, self.kv).map(Some)
    }

    /// The tokenizer, if there is one that is understood, and the tokens that end a generation.
    fn tokenizer(
        &self,
        checkpoint: &Checkpoint,
        config: &Config,
    ) -> Result<(Result<Option<Tokenizer>>, Vec<u32>)> {
        let tokenizer = Tokenizer::from_checkpoint(checkpoint);
        if let Ok(Some(tokenizer)) = &tokenizer
            && tokenizer.vocab_size() > config.vocab_size
        {
            return Err(config_error(format!(
                "the tokenizer has {} tokens, the embedding only {} rows",
                tokenizer.vocab_size(),
                config.vocab_size
            ))
            .at(&self.path));
        }
        let mut end_ids = checkpoint.generation_defaults()?.eos;
        end_ids.extend(tokenizer.iter().flatten().flat_map(Tokenizer::eog_ids));
        Ok((tokenizer, end_ids))
    }

    /// Packs the model into a file at `path` that is mapped and used as it lies: it opens with no
    /// other file, in milliseconds, without a copy. The settings `quantize`, `mmap`, `threads`, `progress`
    /// and `cancel` count; the others are for loading.
    ///
    /// The file is for the version of the crate that wrote it, or one with the same layouts; others
    /// refuse it. It is written beside `path` (with `.tmp` after the name) and renamed when it is
    /// whole.
    ///
    /// ```no_run
    /// use goldcrest::{Format, Model};
    /// Model::loader("model-f16.gguf").quantize(Format::Q8_0).pack("model.gcpack")?;
    /// let model = Model::open("model.gcpack")?;
    /// # Ok::<(), goldcrest::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`load`](Self::load), and [`ErrorKind::Io`](crate::ErrorKind::Io) where the file cannot be
    /// written; [`ErrorKind::Input`](crate::ErrorKind::Input) for a model that is packed already.
    pub fn pack(mut self, path: impl AsRef<Path>) -> Result<()> {
        self.check_quantize()?;
        let threads = choose_threads(self.threads)?;
        let checkpoint = self.checkpoint()?;
        let spec = checkpoint.spec(&checkpoint.decoder()?)?;
        let path = path.as_ref();
        on_threads(threads, || {
            let watch = Watch { progress: &*self.progress, cancel: &self.cancel };
            let saved = save(&checkpoint, &spec, self.quantize, path, &watch);
            saved.map_err(|error| error.at(&self.path))
        })
    }

    fn checkpoint(&mut self) -> Result<Checkpoint> {
        match self.bytes.take() {
            Some(bytes) => Checkpoint::from_bytes(&self.path, bytes),
            None => Checkpoint::open(&self.path, &ReadOptions { mmap: self.mmap }),
        }
    }

    fn check_quantize(&self) -> Result<()> {
        match self.quantize {
            Some(format) if Self::quantizers().all(|known| known != format) => {
                let known: Vec<_> = Self::quantizers().map(Format::name).collect();
                let known = known.join(", ");
                Err(input_error(format!("weights are quantised to {known}, not {format}")))
            }
            _ => Ok(()),
        }
    }
}

/// Runs `work` where its parallel parts take that many threads.
fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|error| {
        Error::new(ErrorKind::Worker, "cannot start threads for loading").because(error)
    })?;
    pool.install(work)
}

fn choose_kernels(isa: Option<Isa>, deterministic: bool) -> Result<&'static Kernels> {
    let (isa, by) = match (isa, std::env::var(ISA_VARIABLE)) {
        (Some(isa), _) => (isa, "asked for"),
        (None, Ok(name)) if !name.is_empty() => {
            let isa = name.parse().map_err(|error: goldcrest_kernels::UnknownIsa| {
                input_error(format!("{ISA_VARIABLE}: {error}"))
            })?;
            (isa, "named by GOLDCREST_ISA")
        }
        _ => (Isa::best(), "the best"),
    };
    let kernels = if deterministic { Kernels::deterministic(isa) } else { Kernels::for_isa(isa) };
    kernels.ok_or_else(|| -> Error {
        unsupported(format!(
            "instruction set \"{isa}\", {by}, is not available on this machine (its best: {})",
            Kernels::best().isa()
        ))
    })
}
