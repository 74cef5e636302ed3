//! `goldcrest pack`: a file that opens without packing.

use goldcrest::Model;

use crate::args::{PackArgs, Progress};
use crate::failure::Failure;

pub(crate) fn pack(args: PackArgs) -> Result<(), Failure> {
    let bar = Progress::new("packing");
    let mut loader = Model::loader(&args.path).progress(bar.callback());
    if let Some(quant) = args.quant {
        loader = loader.quantize(quant);
    }
    let packed = loader.pack(&args.output);
    bar.finish();
    packed.map_err(Failure::of_arguments)
}
