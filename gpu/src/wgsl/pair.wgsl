fn pair_$F$(panel: u32, q: u32, block: u32, j: u32) -> Pair {
    let codes = words_$F$(panel, q, block, j);
    return Pair(bytes(codes.low), bytes(codes.high));
}
