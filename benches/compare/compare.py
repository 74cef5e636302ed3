#!/usr/bin/env python3
"""Runs goldcrest and llama.cpp alternately on the same GGUF files and prints the ratios.

Every sample is a fresh process that loads the file, warms up with both tests, and measures each
once: a prompt of P tokens, and N tokens decoded one by one from an empty context. Both engines get
the same token ids, threads and KV type (f16), and map the file. See README.md beside this script.
"""

import argparse
import ctypes
import datetime
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time

# llama.cpp's numbers of the ways to run.
FLASH = {"auto": [-1], "off": [0], "on": [1], "better": [1, 0]}


def main():
    args = parse()
    if args.peer_sample:
        return peer_sample(args)
    versions = {"goldcrest": output([args.goldcrest, "--version"]), "llama.cpp": None}
    print(f"Date: {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC  ")
    print(f"CPU: {cpu()}, {os.cpu_count()} logical, {platform.release()}  ")
    results = []
    for path in args.files:
        pairs = []
        for number in range(args.pairs):
            order = [sample_goldcrest, sample_peer]
            # Whoever goes first may find another machine than the second: take turns.
            if number % 2:
                order.reverse()
            samples = {}
            for sample in order:
                samples[sample] = sample(args, path)
            pairs.append((samples[sample_goldcrest], samples[sample_peer]))
            note(f"{path}: pair {number + 1} of {args.pairs}")
        results.append((path, pairs))
        versions["llama.cpp"] = pairs[0][1]["version"]
    isa = results[0][1][0][0]["isa"]
    print(f"goldcrest: {versions['goldcrest']}, {isa}, {args.options or 'default options'}  ")
    print(f"llama.cpp: {versions['llama.cpp']}  ")
    print(f"Threads: {args.threads}; {args.pairs} pairs; medians, in brackets the least and the most\n")
    speeds(results)
    print()
    costs(results)
    return 0


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("files", nargs="+", metavar="GGUF")
    parser.add_argument("--goldcrest", default=os.environ.get("GOLDCREST", "goldcrest"),
                        help="our binary [$GOLDCREST]")
    parser.add_argument("--options", default="", metavar="ARGS",
                        help="more arguments for `goldcrest bench`, e.g. '--isa avx2'")
    parser.add_argument("--peer-python", default=os.environ.get("PEER_PYTHON", sys.executable),
                        help="a Python that has llama-cpp-python [$PEER_PYTHON]")
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--decode", type=int, default=64)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-r", "--pairs", type=int, default=5)
    parser.add_argument("--flash", choices=FLASH, default="better",
                        help="llama.cpp's flash attention; better: the faster of on and off, test by test")
    parser.add_argument("--peer-sample", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def sample_goldcrest(args, path):
    command = [args.goldcrest, "bench", "-m", path, "-r", "1", "--json",
               "-p", str(args.prompt), "-n", str(args.decode), "-t", str(args.threads)]
    lines = [json.loads(line) for line in
             output(command + shlex.split(args.options)).splitlines()]
    return {
        "isa": lines[0]["isa"],
        "model": f"{lines[0]['model']} ({lines[0]['type']})",
        "tps": {line["test"]: line["tps"]["median"] for line in lines},
        "share": {line["test"]: line["bandwidth_fraction"] for line in lines},
        "rss": lines[0]["peak_rss_bytes"],
        "load": lines[0]["load_seconds"],
    }


def sample_peer(args, path):
    return json.loads(output([
        args.peer_python, os.path.abspath(__file__), "--peer-sample", path,
        "-p", str(args.prompt), "-n", str(args.decode), "-t", str(args.threads),
        "--flash", args.flash]))


def peer_sample(args):
    """One sample of llama.cpp, in the Python that has it."""
    import llama_cpp as lc

    # The library logs to standard error by default, at length.
    silence = lc.llama_log_callback(lambda level, text, data: None)
    lc.llama_log_set(silence, ctypes.c_void_p(0))
    lc.llama_backend_init()
    start = time.perf_counter()
    model = lc.llama_model_load_from_file(args.files[0].encode(), lc.llama_model_default_params())
    load = time.perf_counter() - start
    samples = [peer_context(args, lc, model, flash) for flash in FLASH[args.flash]]
    tps = [sample["tps"] for sample in samples]
    features = lc.llama_print_system_info().decode().split("|")
    on = [f.split("=")[0].split(":")[-1].strip() for f in features if f.strip().endswith("= 1")]
    json.dump({
        "version": f"llama-cpp-python {lc.__version__} ({' '.join(on)})",
        "tps": {test: max(sample[test] for sample in tps) for test in tps[0]},
        # Of the first context alone, as a program has one.
        "rss": samples[0]["rss"],
        "load": load + samples[0]["load"],
    }, sys.stdout)
    return 0


def peer_context(args, lc, model, flash):
    """What both tests and making the context cost, in one with this flash attention."""
    start = time.perf_counter()
    params = lc.llama_context_default_params()
    params.n_ctx = max(args.prompt, args.decode)
    params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = args.threads
    params.flash_attn_type = flash
    context = lc.llama_init_from_model(model, params)
    if not context:
        sys.exit(f"{args.files[0]}: llama.cpp did not load it")
    load = time.perf_counter() - start
    tps = peer_tests(args, lc, model, context)
    lc.llama_free(context)
    return {"tps": tps, "rss": peak_rss(), "load": load}


def peer_tests(args, lc, model, context):
    """Tokens a second of both tests, after a run of each that does not count."""
    vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(model))

    def run(tokens, batch):
        lc.llama_memory_clear(lc.llama_get_memory(context), True)
        ids = list(token_ids(vocab, tokens))
        array = (lc.llama_token * len(ids))(*ids)
        start = time.perf_counter()
        for at in range(0, tokens, batch):
            part = ctypes.cast(ctypes.byref(array, at * ctypes.sizeof(lc.llama_token)),
                               ctypes.POINTER(lc.llama_token))
            size = min(batch, tokens - at)
            if lc.llama_decode(context, lc.llama_batch_get_one(part, size)) != 0:
                sys.exit("llama_decode failed")
        lc.llama_synchronize(context)
        return tokens / (time.perf_counter() - start)

    tests = {f"pp{args.prompt}": (args.prompt, 512), f"tg{args.decode}": (args.decode, 1)}
    tests = {name: test for name, test in tests.items() if test[0] > 0}
    for test in tests.values():
        run(*test)
    return {name: run(*test) for name, test in tests.items()}


def token_ids(vocab, count):
    """The ids of `goldcrest bench`."""
    state = 0x2545F491
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield (state >> 33) % vocab


def speeds(results):
    print("| model | test | goldcrest tokens/s | llama.cpp tokens/s | ratio | of memory bandwidth |")
    print("|---|---|---|---|---|---|")
    for _, pairs in results:
        for test in pairs[0][0]["tps"]:
            ours = [a["tps"][test] for a, _ in pairs]
            theirs = [b["tps"][test] for _, b in pairs]
            shares = [a["share"][test] for a, _ in pairs]
            share = "" if None in shares else spread([100 * s for s in shares], 0, "%")
            print(f"| {pairs[0][0]['model']} | {test} | {spread(ours, 1)} | {spread(theirs, 1)} "
                  f"| {spread([a / b for a, b in zip(ours, theirs)], 2)} | {share} |")


def costs(results):
    print("| model | file MB | goldcrest peak MB | llama.cpp peak MB | goldcrest load s | llama.cpp load s |")
    print("|---|---|---|---|---|---|")
    for path, pairs in results:
        rss = [spread([side["rss"] * 1e-6 for side in sides], 0) for sides in zip(*pairs)]
        load = [spread([side["load"] for side in sides], 2) for sides in zip(*pairs)]
        size = os.path.getsize(path) * 1e-6
        print(f"| {pairs[0][0]['model']} | {size:.0f} | {' | '.join(rss)} | {' | '.join(load)} |")


def spread(values, digits, unit=""):
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f}{unit} ({low:.{digits}f}–{high:.{digits}f})"


def peak_rss():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu():
    for line in output(["lscpu"]).splitlines():
        if line.startswith("Model name:"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def output(command):
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"failed ({result.returncode}): {shlex.join(command)}")
    return result.stdout.strip()


def note(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
