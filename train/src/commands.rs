//! What each command does.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use goldcrest::EncodeOptions;
use goldcrest::synthetic::Mixture;
use goldcrest_train::corpus::{self, Stream};
use goldcrest_train::log::{self, Record};
use goldcrest_train::model::{Model, Teacher};
use goldcrest_train::plot::{self, Curve};
use goldcrest_train::tokenizer::Tokenizer;
use goldcrest_train::trainer::Trainer;
use goldcrest_train::{Error, Result, evaluate, export, sample};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{Args, Command, Training};

/// Text as it stands.
const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };

pub(crate) fn execute(args: Args) -> Result<()> {
    match args.command {
        Command::Tokenizer { text, out, vocab } => tokenizer(&text.corpus, &out, vocab),
        Command::Train(training) => {
            let model = Model::new(&training.preset.dimensions(), training.settings.seed)?;
            train(training, model, None)
        }
        Command::Distil { training, teacher, temperature, share, layers } => {
            let better = Model::open(&teacher)?;
            let dimensions = training.preset.dimensions();
            let model = match &layers[..] {
                [] => Model::new(&dimensions, training.settings.seed)?,
                layers => Model::from_layers(&dimensions, &better, layers)?,
            };
            train(training, model, Some(Teacher { model: better, temperature, share }))
        }
        Command::Sample { model, out, stories, temperature, top_p, seed } => {
            sample(&model, &out, seed..seed + stories, temperature, top_p)
        }
        Command::Export { checkpoint, tokenizer, out, types, name } => {
            let (model, tokenizer) = (Model::open(&checkpoint)?, Tokenizer::open(&tokenizer)?);
            export(&model, &tokenizer, &types, &name, &out)
        }
        Command::Loss { text, model, tokenizer } => loss(&text.corpus, &model, &tokenizer),
        Command::Plot { runs, out } => plot(&runs, &out),
    }
}

/// A line on standard output.
fn say(line: impl std::fmt::Display) -> Result<()> {
    let path = Path::new("standard output");
    writeln!(std::io::stdout(), "{line}").map_err(|source| Error::Io { path: path.into(), source })
}

fn tokenizer(corpus: &Path, out: &Path, vocab: usize) -> Result<()> {
    let stories = corpus::books(&corpus.join("books"))?;
    let tokenizer = Tokenizer::train(&stories, vocab)?;
    tokenizer.save(out)?;
    let held_out = Stream::new(&tokenizer, &corpus::stories(&corpus.join("heldout.txt"))?)?;
    let each = held_out.bytes() as f64 / held_out.len() as f64;
    say(format_args!("{} tokens; {each:.2} bytes of held-out text in each", tokenizer.vocab()))
}

fn train(training: Training, model: Model, teacher: Option<Teacher>) -> Result<()> {
    let Training { text, tokenizer, out, resume, extra, settings, .. } = training;
    let tokenizer = Tokenizer::open(&tokenizer)?;
    let mut stories = corpus::books(&text.corpus.join("books"))?;
    let held_out = corpus::stories(&text.corpus.join("heldout.txt"))?;
    let shared = corpus::overlap(&stories, &held_out);
    for path in &extra {
        stories.extend(corpus::stories(path)?);
    }
    let (train, held_out) =
        (Stream::new(&tokenizer, &stories)?, Stream::new(&tokenizer, &held_out)?);
    say(format_args!(
        "{} stories, {} tokens; {} held-out tokens; {shared} stories share a passage with them",
        stories.len(),
        train.len(),
        held_out.len(),
    ))?;
    say(format_args!("{} parameters", model.dimensions().parameters()))?;
    let bar = bar(settings.until.unwrap_or(settings.steps));
    let mut trainer = if resume {
        Trainer::resume(settings, &out)?
    } else {
        Trainer::new(model, settings, &out)?
    };
    bar.set_position(trainer.step());
    let mut held_out_loss = String::new();
    trainer.run(&train, &held_out, teacher.as_ref(), |record: &Record| {
        if let Some(loss) = record.held_out {
            held_out_loss = format!(", held out {loss:.4}");
        }
        bar.set_message(format!(
            "loss {:.4}{held_out_loss}, {:.0} tokens/s",
            record.hard, record.tokens_per_second
        ));
        bar.set_position(record.step);
    })?;
    bar.finish();
    say(format_args!("{} steps{held_out_loss}", trainer.step()))
}

fn bar(steps: u64) -> ProgressBar {
    let template = "{elapsed_precise} {wide_bar} {pos}/{len} {msg}, {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    ProgressBar::new(steps).with_style(style)
}

fn export(model: &Model, tokenizer: &Tokenizer, types: &str, name: &str, out: &Path) -> Result<()> {
    if out.extension() != Some("gguf".as_ref()) {
        return export::folder(model, tokenizer, out);
    }
    let Some(mixture) = Mixture::by_name(types) else {
        let names: Vec<&str> = Mixture::ALL.iter().map(|mixture| mixture.name).collect();
        return Err(Error::Input(format!("no types {types:?}; there are {}", names.join(", "))));
    };
    export::gguf(model, tokenizer, mixture, name, out)
}

fn sample(
    model: &Path,
    out: &Path,
    seeds: std::ops::Range<u64>,
    temperature: f32,
    top_p: f32,
) -> Result<()> {
    let model = evaluate::open(model)?;
    let failed = |source| Error::Io { path: out.into(), source };
    let mut file = File::create(out).map_err(failed)?;
    let bar = bar(seeds.end - seeds.start);
    for seed in seeds {
        // Far apart, since a story takes more than one seed.
        let story = sample::story(&model, seed << 32, temperature, top_p)?;
        writeln!(file, "{story}\n\n{}\n", corpus::SEPARATOR).map_err(failed)?;
        bar.inc(1);
    }
    bar.finish();
    Ok(())
}

fn loss(corpus: &Path, path: &Path, tokenizer: &Path) -> Result<()> {
    let tokenizer = Tokenizer::open(tokenizer)?;
    let stories = corpus::stories(&corpus.join("heldout.txt"))?;
    let model = evaluate::open(path)?;
    for story in &stories {
        let own = model.tokenizer()?.encode_with(story, PLAIN)?;
        if own != tokenizer.encode(story)? {
            return Err(Error::Input(format!("{}: another tokenizer", path.display())));
        }
    }
    let text = Stream::new(&tokenizer, &stories)?;
    let loss = evaluate::loss(&model, &text, model.config().context_length())?;
    say(format_args!(
        "{}: {:.4} nats per token, {:.4} bits per byte ({} tokens, {} bytes)",
        path.display(),
        loss.nats,
        loss.bits_per_byte,
        loss.tokens,
        text.bytes(),
    ))
}

fn plot(runs: &[PathBuf], out: &Path) -> Result<()> {
    let curve = |dir: &PathBuf| {
        let name = dir.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
        Ok(Curve { name, records: log::read(&dir.join(log::LOG))? })
    };
    let curves: Vec<Curve> = runs.iter().map(curve).collect::<Result<_>>()?;
    std::fs::write(out, plot::svg(&curves)).map_err(|source| Error::Io { path: out.into(), source })
}
