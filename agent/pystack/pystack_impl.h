/*
 * pystack_impl.h - what the three sources behind pystack.h share.
 *
 *   pystack.c      layout, threads, GIL, captures
 *   pysymbol.c     raw frame -> file, name, line
 *   pyselftest.c   comparison with sys._getframe at import
 *
 * The interpreter is described by one table of offsets, filled from
 * pyframes_3XX.h, so that the walk itself is the same for all versions and
 * only those headers see CPython's internals.
 */
#ifndef LG_PYSTACK_IMPL_H
#define LG_PYSTACK_IMPL_H

#include "pystack.h"

#include "memread.h"
#include "pylines.h"

#include <string.h>

#define LG_ABSENT UINT16_MAX            /* this version has no such field */

/* Copies of interpreter structures; pystack.c checks that the layout fits. */
#define LG_TSTATE_BYTES 512
#define LG_FRAME_BYTES 128
#define LG_CODE_BYTES 256

#define LG_WALK_MAX 1024                /* frames per walk: Python's recursion limit */
#define LG_COPIES 256                   /* pieces of memory per walk */
#define LG_COPIES_BYTES 65536
#define LG_COPY_MAX (4096 + LG_TSTATE_BYTES)    /* of one piece */
#define LG_CODE_BATCH 32
#define LG_GUESSES 256

/* Who owns a frame. 3.9 and 3.10 have frame objects; those of a generator are
 * given its number here. */
#define LG_OWNER_THREAD 0
#define LG_OWNER_GENERATOR 1
#define LG_OWNER_C 3                    /* 3.12+: marks a call from C, no code */

/* Byte offsets into the interpreter's structures. */
struct lg_pylayout {
    const char *name;           /* NULL: no layout for this version */
    enum lg_pylines_form lines_form;
    bool frame_objects;         /* 3.9, 3.10: PyFrameObject, f_lasti */
    uint8_t lasti_bytes;        /* frame_objects: bytes per unit of f_lasti */
    uint64_t code_tag_mask;     /* bits of the code pointer that are not address */

    uint16_t ts_bytes;
    uint16_t ts_interp;
    uint16_t ts_frame;          /* the frame, or the cframe that points to it */
    uint16_t cframe_frame;      /* LG_ABSENT: ts_frame is the frame itself */
    uint16_t ts_thread_id;
    uint16_t ts_native_id;      /* LG_ABSENT in 3.9, 3.10 */
    uint16_t ts_id;
    uint16_t ts_chunk;          /* data stack, LG_ABSENT in 3.9, 3.10 */
    uint16_t chunk_data;

    uint16_t fr_bytes;
    uint16_t fr_previous;
    uint16_t fr_code;
    uint16_t fr_instr;          /* f_lasti, prev_instr or instr_ptr */
    uint16_t fr_owner;          /* f_gen where frames are objects */

    uint16_t co_bytes;
    uint16_t co_instr;          /* frame_objects: pointer to bytes; else the code */
    uint16_t co_file;
    uint16_t co_name;
    uint16_t co_lines;
    uint16_t co_consts;
    uint16_t co_first_line;
    uint16_t co_traceable;      /* LG_ABSENT in 3.9, 3.10 */
    uint16_t co_version;        /* LG_ABSENT before 3.12 */
};

struct lg_pystack {
    struct lg_pylayout layout;
    bool works;
    char reason[40];
    char gil_reason[40];
    uint64_t interp;            /* the main interpreter's state */
    uint64_t code_type;
    uint64_t str_type;
    uint64_t bytes_type;
    uint32_t pthread_tid;       /* offset of the tid in struct pthread, 0: unknown */
    uint64_t gil_start;
    uint64_t gil_end;
    uint64_t gil_locked;        /* int */
    uint64_t gil_holder;        /* PyThreadState * */
    uint64_t gc_collecting;     /* int; 0: not known */
    uint64_t gc_thresholds[3];  /* int each, to check the place; 0: not known */
};

/* Compared with memcmp: no padding. */
struct lg_pyentry {
    uint64_t frame;
    uint64_t code;
    int32_t offset;
    uint32_t owner;
};

struct lg_pywalk {
    bool whole;                 /* reached the outermost frame */
    bool steady;                /* the innermost frame was the same at the end */
    uint32_t depth;
    uint64_t tstate_id;
    uint64_t chunk;             /* innermost chunk of the data stack, or 0 */
    struct lg_pyentry entries[LG_WALK_MAX];     /* innermost first */
};

/* Interpreter memory copied for a walk. Every walk begins by copying, in a
 * single call, all places that this capture or the one before has met: a stack
 * that stands still, or whose outer part does, needs no call per frame, and
 * what moves is caught in one instant more often. */
struct lg_pycopy {
    uint64_t start;
    uint32_t size_bytes;
    uint32_t at;                /* in lg_pystack_walker.copied */
    bool used;                  /* by the capture in progress */
};

/* Where the texts of a code object were last time: only where to look, never
 * what is there. See pysymbol.c. */
struct lg_pyguess {
    uint64_t code;
    uint64_t file;
    uint64_t name;
    uint64_t lines;
    uint64_t instr;             /* frame_objects: the bytes object, else 0 */
    uint32_t file_bytes;
    uint32_t name_bytes;
    uint32_t lines_bytes;
    uint32_t stamp;
};

struct lg_pystack_walker {
    const struct lg_pystack *ps;
    struct lg_memread mem;
    int copy_err;               /* of the last copy that failed */
    bool missed;                /* this walk met a place that was not known */
    uint64_t leaf_at[2];        /* where the innermost frame's address is found */
    uint64_t leaf_end[2];       /* what stood there at the end of copying */
    uint32_t copy_count;
    uint32_t copied_bytes;
    uint32_t cursor;            /* where the last look-up ended */
    struct lg_pycopy copies[LG_COPIES];
    char copied[LG_COPIES_BYTES];
    char spare[LG_COPY_MAX];    /* for what finds no room above */
    struct lg_pywalk walks[2];
    struct lg_pywalk common;    /* what all walks of this capture agree on */
    char codes[LG_CODE_BATCH][LG_CODE_BYTES];
    uint64_t name_hashes[LG_CODE_BATCH];
    struct lg_pyguess guesses[LG_GUESSES];
};

static inline uint64_t
lg_load_u64(const char *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline int32_t
lg_load_i32(const char *p)
{
    int32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint64_t
lg_mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15ULL;
    return h ^ (h >> 32);
}

/* pystack.c: true when these bytes are those of a living code object. */
bool lg_pycode_is_alive(const struct lg_pystack *ps, const char *code);

/* pystack.c: the stamp of a code object's bytes. `name_hash` is the cached
 * hash of its name where versions are missing (before 3.12), else ignored. */
uint32_t lg_pycode_stamp(const struct lg_pylayout *l, const char *code, uint64_t name_hash);

/* pyselftest.c: under the GIL. Returns NULL, or why `ps` must not be used. */
const char *lg_pystack_selftest(const struct lg_pystack *ps, struct lg_pystack_walker *walker);
const char *lg_pystack_selftest_gil(const struct lg_pystack *ps, struct lg_pystack_walker *walker);

#endif
