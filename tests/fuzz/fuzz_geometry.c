/*
 * fuzz_geometry.c - libFuzzer target: any bytes as a segment file.
 *
 *     clang -g -O1 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Icommon \
 *         tests/fuzz/fuzz_geometry.c common/lg_crc32c.c common/lg_geometry.c \
 *         common/lg_hist.c common/lg_ring.c common/lg_seqlock.c common/lg_text.c \
 *         -o build/fuzz_geometry
 *     build/fuzz_geometry -max_len=65536 build/corpus tests/data
 *
 * Each input is walked twice: as it is, and with the header page's checksum
 * made right, so that the fuzzer need not guess it.
 */
#include <stdlib.h>

#include "lg_crc32c.h"
#include "walk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct walk walk;
    /* An exact heap block: the sanitizer sees the first byte beyond it. */
    uint8_t *bytes = NULL;
    if (posix_memalign((void **)&bytes, 64, size != 0 ? size : 1) != 0) {
        return 0;
    }
    if (size != 0) {
        memcpy(bytes, data, size);
    }
    walk_segment(&walk, bytes, size);
    if (size >= LG_HEADER_PAGE) {
        uint32_t crc =
            lg_crc32c(bytes + sizeof(struct lg_header), LG_HEADER_PAGE - sizeof(struct lg_header));
        memcpy(bytes + offsetof(struct lg_header, crc32c), &crc, sizeof(crc));
        walk_segment(&walk, bytes, size);
    }
    free(bytes);
    return 0;
}
