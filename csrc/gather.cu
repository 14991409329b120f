/* Joins segments of pinned or device memory into one buffer on the device, in one launch instead of a copy call each.
 *
 * Compiled by nvcc where the package is built, else by NVRTC where it first runs, so it includes nothing. */

struct ta_piece { /* as Piece of triton_async/backends/device/copies.pyx */
    const unsigned char *source;
    unsigned long long offset; /* in `to` */
    unsigned long long nbytes;
};

template <typename Word>
static __device__ unsigned long long copy_words(unsigned char *to, const unsigned char *from,
                                                unsigned long long nbytes) {
    const unsigned long long step = (unsigned long long)gridDim.y * blockDim.x;
    const unsigned long long count = nbytes / sizeof(Word);
    Word *target = (Word *)to;
    const Word *source = (const Word *)from;
    for (unsigned long long i = (unsigned long long)blockIdx.y * blockDim.x + threadIdx.x; i < count; i += step) {
        target[i] = source[i];
    }
    return count * sizeof(Word);
}

/* Block x copies piece x; the blocks of the same x share it. */
extern "C" __global__ void ta_gather(unsigned char *to, const ta_piece *pieces) {
    const ta_piece piece = pieces[blockIdx.x];
    unsigned char *target = to + piece.offset;
    const unsigned long long ends = (unsigned long long)target | (unsigned long long)piece.source;
    unsigned long long done = 0;
    if (ends % sizeof(uint4) == 0) {
        done = copy_words<uint4>(target, piece.source, piece.nbytes);
    } else if (ends % sizeof(unsigned int) == 0) {
        done = copy_words<unsigned int>(target, piece.source, piece.nbytes);
    }
    copy_words<unsigned char>(target + done, piece.source + done, piece.nbytes - done);
}
