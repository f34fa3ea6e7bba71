/*
 * pystack.c - the stack of a Python thread, taken without the GIL.
 *
 * lg_pystack_open() and lg_pystack_thread_here() want the GIL; all else runs
 * on any thread without it and calls no Python function. What is read of a
 * running thread may change under our eyes or be freed: it is copied first
 * (memread.c), then looked at, and believed only after the checks at the top
 * of pystack.h.
 *
 * This is the one file that is compiled with CPython's internal headers.
 */
#define Py_BUILD_CORE 1
#include <Python.h>

#include "pystack_impl.h"

#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../common/lg_atomic.h"

#if defined(Py_GIL_DISABLED)
#define OFF_REASON "free-threaded Python is not supported"
#elif PY_VERSION_HEX < 0x03090000
#define OFF_REASON "Python before 3.9 is not supported"
#elif PY_VERSION_HEX < 0x030a0000
#include "pyframes_39.h"
#elif PY_VERSION_HEX < 0x030b0000
#include "pyframes_310.h"
#elif PY_VERSION_HEX < 0x030c0000
#include "pyframes_311.h"
#elif PY_VERSION_HEX < 0x030d0000
#include "pyframes_312.h"
#elif PY_VERSION_HEX < 0x030e0000
#include "pyframes_313.h"
#elif PY_VERSION_HEX < 0x030f0000 && defined(LG_PYSTACK_314)
#include "pyframes_314.h"
#else
#define OFF_REASON "this Python's frames are not known"
#endif

#ifdef OFF_REASON
static void
fill_layout(struct lg_pylayout *l)
{
    (void)l;
}

static void
fill_gil(struct lg_pystack *ps, PyInterpreterState *interp)
{
    (void)ps;
    (void)interp;
}
#else
#define OFF_REASON "this Python's frames are not known"
#endif

/* A walk copies a moving stack frame by frame, so it may join a caller on one
 * line with a callee of another. Measured with functions that do nothing but
 * call each other, samples that were wrong: two equal walks 1 of 5000, three
 * 1 of 300000, three whose innermost frame was the same before and after the
 * copying none of 1500000. */
#define WALKS_EQUAL 3           /* in a row: the stack stands still */
#define WALKS_EQUAL_UNPROVEN 6  /* where the outermost frame is not known to be it */
#define WALKS_COMMON 9          /* whole ones: then their common part is taken */
#define WALKS_COMMON_MIN 5      /* enough when WALKS_MAX are used up */
#define WALKS_MAX 24
#define STACK_NEAR_BYTES 16384  /* a chunk of the data stack */
#define CHUNKS_MAX 64
#define FRAME_BEGIN (-2)        /* 3.11: the code unit before the first */
#define REFCOUNT_MAX UINT32_MAX /* also the count of an immortal object, 3.12+ */

/* One frame as copied, before it is believed. */
struct raw_frame {
    struct lg_pyentry entry;
    uint64_t previous;
};

static const char *learn(struct lg_pystack *ps);
static bool layout_fits(const struct lg_pylayout *l);
static uint32_t find_pthread_tid(void);
static void set_reason(char *reason, size_t size_bytes, const char *why);
static void test_it(struct lg_pystack *ps);
static int walk_thread(struct lg_pystack_walker *w, const struct lg_pystack_thread *thread,
                       struct lg_pywalk *walk);
static void forget_unused(struct lg_pystack_walker *w);
static void copy_again(struct lg_pystack_walker *w);
static bool leaf_is_same(struct lg_pystack_walker *w, const uint64_t *at, const uint64_t *value);
static const char *copy_of(struct lg_pystack_walker *w, uint64_t addr, uint32_t size_bytes,
                           bool with_page);
static const char *known_copy(struct lg_pystack_walker *w, uint64_t addr, uint32_t size_bytes);
static bool parse_frame(const struct lg_pylayout *l, uint64_t addr, const char *bytes,
                        struct raw_frame *out);
static bool walks_agree(const struct lg_pywalk *a, const struct lg_pywalk *b);
static bool narrow_common(struct lg_pywalk *common, uint32_t walks, const struct lg_pywalk *walk);
static bool same_frame(const struct lg_pyentry *a, const struct lg_pyentry *b);
static void drop_leaf(struct lg_pywalk *walk);
static uint64_t root_of(const struct lg_pywalk *walk);
static bool root_is_proven(struct lg_pystack_walker *w, const struct lg_pystack_thread *thread,
                           const struct lg_pywalk *walk);
static uint64_t data_stack_base(struct lg_pystack_walker *w, uint64_t chunk);
static int check_codes(struct lg_pystack_walker *w, const struct lg_pywalk *walk,
                       struct lg_pystack_sample *out);
static int read_codes(struct lg_pystack_walker *w, const struct lg_pyentry *entries,
                      uint32_t count);
static int keep_frame(const struct lg_pystack *ps, const struct lg_pyentry *entry, const char *code,
                      uint64_t name_hash, struct lg_pystack_sample *out);
static uint64_t first_frame(const struct lg_pylayout *l, uint64_t tstate);

/* --- The interpreter ------------------------------------------------------ */

int
lg_pystack_open(struct lg_pystack **out)
{
    struct lg_pystack *ps = calloc(1, sizeof(*ps));
    if (ps == NULL) {
        return -ENOMEM;
    }
    const char *why = learn(ps);
    set_reason(ps->reason, sizeof(ps->reason), why);
    set_reason(ps->gil_reason, sizeof(ps->gil_reason), why);
    ps->works = why == NULL;            /* for the self-test's own captures */
    if (ps->works) {
        test_it(ps);
        ps->works = ps->reason[0] == '\0';
    }
    *out = ps;
    return 0;
}

void
lg_pystack_close(struct lg_pystack *ps)
{
    free(ps);
}

const char *
lg_pystack_reason(const struct lg_pystack *ps)
{
    return ps->reason;
}

const char *
lg_pystack_gil_reason(const struct lg_pystack *ps)
{
    return ps->gil_reason;
}

/* --- One user's tools ----------------------------------------------------- */

int
lg_pystack_walker_open(const struct lg_pystack *ps, struct lg_pystack_walker **out)
{
    if (!ps->works) {
        return -ENOTSUP;
    }
    struct lg_pystack_walker *w = calloc(1, sizeof(*w));
    if (w == NULL) {
        return -ENOMEM;
    }
    w->ps = ps;
    int err = lg_memread_init(&w->mem);
    if (err != 0) {
        free(w);
        return err;
    }
    *out = w;
    return 0;
}

void
lg_pystack_walker_close(struct lg_pystack_walker *walker)
{
    free(walker);
}

void
lg_pystack_walker_after_fork(struct lg_pystack_walker *walker)
{
    lg_memread_after_fork(&walker->mem);
}

void
lg_pystack_begin(struct lg_pystack_walker *walker)
{
    if (walker != NULL) {
        lg_memread_begin(&walker->mem);
    }
}

void
lg_pystack_end(struct lg_pystack_walker *walker)
{
    if (walker != NULL) {
        lg_memread_end(&walker->mem);
    }
}

const char *
lg_pystack_walker_reader(const struct lg_pystack_walker *walker)
{
    return lg_memread_name(&walker->mem);
}

/* --- Threads -------------------------------------------------------------- */

int
lg_pystack_thread_here(const struct lg_pystack *ps, struct lg_pystack_thread *out)
{
    if (!ps->works) {
        return -ENOTSUP;
    }
    const struct lg_pylayout *l = &ps->layout;
    PyThreadState *tstate = PyThreadState_Get();
    struct lg_pystack_thread t = {
        .tstate = (uint64_t)(uintptr_t)tstate,
        .tstate_id = PyThreadState_GetID(tstate),
        .pthread_id = (uint64_t)tstate->thread_id,
        .native_tid = (int32_t)syscall(SYS_gettid),
    };
    for (uint64_t frame = first_frame(l, t.tstate); frame != 0;) {
        struct raw_frame raw;
        const char *bytes = (const char *)(uintptr_t)frame;
        if (!parse_frame(l, frame, bytes, &raw)) {
            return -ESRCH;
        }
        if (raw.entry.owner != LG_OWNER_C) {
            t.root = frame;
        }
        frame = raw.previous;
    }
    if (t.root == 0) {
        return -ESRCH;
    }
    *out = t;
    return 0;
}

int
lg_pystack_thread_at(struct lg_pystack_walker *walker, uint64_t tstate,
                     struct lg_pystack_thread *out)
{
    if (walker == NULL) {
        return -ENOTSUP;
    }
    const struct lg_pystack *ps = walker->ps;
    char bytes[LG_TSTATE_BYTES];
    lg_memread_begin(&walker->mem);
    int err = lg_memread_copy(&walker->mem, tstate, bytes, ps->layout.ts_bytes);
    if (err == -EFAULT || (err == 0 && lg_load_u64(bytes + ps->layout.ts_interp) != ps->interp)) {
        err = -ESRCH;
    }
    if (err == 0) {
        struct lg_pystack_thread t = {
            .tstate = tstate,
            .tstate_id = lg_load_u64(bytes + ps->layout.ts_id),
            .pthread_id = lg_load_u64(bytes + ps->layout.ts_thread_id),
        };
        if (ps->layout.ts_native_id != LG_ABSENT) {
            t.native_tid = lg_load_i32(bytes + ps->layout.ts_native_id);
        }
        else if (ps->pthread_tid == 0 ||
                 lg_memread_copy(&walker->mem, t.pthread_id + ps->pthread_tid, &t.native_tid,
                                 sizeof(t.native_tid)) != 0) {
            t.native_tid = 0;
        }
        *out = t;
    }
    lg_memread_end(&walker->mem);
    return err;
}

/* --- Captures ------------------------------------------------------------- */

int
lg_pystack_capture(struct lg_pystack_walker *walker, const struct lg_pystack_thread *thread,
                   struct lg_pystack_sample *out)
{
    if (walker == NULL) {
        return -ENOTSUP;
    }
    struct lg_pystack_sample sample;
    struct lg_pywalk *walk = &walker->walks[0];
    struct lg_pywalk *last = &walker->walks[1];
    uint32_t equal = 0;         /* walks in a row, `last` among them */
    uint32_t whole = 0;         /* walks that `common` is common to */
    uint32_t wanted = WALKS_EQUAL;
    int err = -EAGAIN;
    lg_memread_begin(&walker->mem);
    forget_unused(walker);
    for (int i = 0; i < WALKS_MAX && whole < WALKS_COMMON; i++) {
        err = walk_thread(walker, thread, walk);
        if (err == -EAGAIN) {
            continue;
        }
        if (err != 0) {
            goto done;
        }
        if (!root_is_proven(walker, thread, walk)) {
            wanted = WALKS_EQUAL_UNPROVEN;
        }
        whole += narrow_common(&walker->common, whole, walk) ? 1 : 0;
        if (!walk->steady) {
            equal = 0;
            continue;
        }
        if (equal == 0 || !walks_agree(walk, last)) {
            struct lg_pywalk *other = last;
            last = walk;
            walk = other;
            equal = 0;
        }
        equal++;
        if (equal >= wanted) {
            err = check_codes(walker, last, &sample);
            sample.flags |= last->whole ? 0 : LG_PYSTACK_CUT;
            if (err == 0) {
                goto done;
            }
            equal = 0;
        }
    }
    err = -EAGAIN;
    if (whole >= WALKS_COMMON_MIN && walker->common.depth > 0) {
        err = check_codes(walker, &walker->common, &sample);
        if (err == -EAGAIN && walker->common.depth > 1) {
            /* The frame that moves was being made: its callers then. */
            drop_leaf(&walker->common);
            err = check_codes(walker, &walker->common, &sample);
        }
        sample.flags |= LG_PYSTACK_MOVING;
    }
done:
    lg_memread_end(&walker->mem);
    if (err == 0) {
        out->depth = sample.depth;
        out->flags = sample.flags;
        memcpy(out->frames, sample.frames, sample.depth * sizeof(sample.frames[0]));
    }
    return err;
}

int
lg_pystack_capture_own(const struct lg_pystack *ps, const struct lg_pystack_thread *thread,
                       struct lg_pystack_sample *out)
{
    if (!ps->works) {
        return -ENOTSUP;
    }
    const struct lg_pylayout *l = &ps->layout;
    struct lg_pystack_sample sample;    /* 1 KiB: frames are set as they come */
    sample.depth = 0;
    sample.flags = 0;
    uint64_t frame = first_frame(l, thread->tstate);
    for (uint32_t steps = 0; frame != 0 && steps < LG_WALK_MAX; steps++) {
        struct raw_frame raw;
        if (!parse_frame(l, frame, (const char *)(uintptr_t)frame, &raw)) {
            return -EAGAIN;
        }
        if (raw.entry.owner != LG_OWNER_C) {
            const char *code = (const char *)(uintptr_t)raw.entry.code;
            uint64_t hash = 0;
            if (l->co_version == LG_ABSENT) {
                const char *name = (const char *)(uintptr_t)lg_load_u64(code + l->co_name);
                hash = lg_load_u64(name + offsetof(PyASCIIObject, hash));
            }
            if (sample.depth == LG_PYSTACK_DEPTH) {
                break;
            }
            int err = keep_frame(ps, &raw.entry, code, hash, &sample);
            if (err != 0) {
                return err;
            }
        }
        frame = raw.previous;
    }
    sample.flags |= frame != 0 ? LG_PYSTACK_CUT : 0;
    out->depth = sample.depth;
    out->flags = sample.flags;
    memcpy(out->frames, sample.frames, sample.depth * sizeof(sample.frames[0]));
    return 0;
}

/* --- The GIL and the collector -------------------------------------------- */

int
lg_pystack_gil_range(const struct lg_pystack *ps, uint64_t *start, uint64_t *end)
{
    if (ps->gil_reason[0] != '\0') {
        return -ENOTSUP;
    }
    *start = ps->gil_start;
    *end = ps->gil_end;
    return 0;
}

bool
lg_pystack_gil_held(const struct lg_pystack *ps, uint64_t *tstate)
{
    *tstate = 0;
    if (ps->gil_reason[0] != '\0') {
        return false;
    }
    /* Static memory of the interpreter. A sample of one instant: nothing else
     * is concluded from these two words, so no order is needed. */
    if (lg_load32_relaxed((const uint32_t *)(uintptr_t)ps->gil_locked) != 1) {
        return false;
    }
    *tstate = lg_load_relaxed((const uint64_t *)(uintptr_t)ps->gil_holder);
    return true;
}

bool
lg_pystack_collecting(struct lg_pystack_walker *walker)
{
    if (walker == NULL || walker->ps->gil_reason[0] != '\0') {
        return false;
    }
    /* Not a plain read: before 3.11 the interpreter state is heap memory,
     * which goes away when the interpreter is finalized. */
    int32_t collecting = 0;
    int err =
        lg_memread_copy(&walker->mem, walker->ps->gc_collecting, &collecting, sizeof(collecting));
    return err == 0 && collecting != 0;
}

/* --- Shared with the other two sources ------------------------------------ */

bool
lg_pycode_is_alive(const struct lg_pystack *ps, const char *code)
{
    /* The first word of a freed block is the allocator's: zero or a pointer. */
    uint64_t refcount = lg_load_u64(code + offsetof(PyObject, ob_refcnt));
    return refcount - 1 < REFCOUNT_MAX &&
           lg_load_u64(code + offsetof(PyObject, ob_type)) == ps->code_type;
}

uint32_t
lg_pycode_stamp(const struct lg_pylayout *l, const char *code, uint64_t name_hash)
{
    uint64_t h = (uint32_t)lg_load_i32(code + l->co_first_line);
    h = lg_mix(h, lg_load_u64(code + l->co_file));
    h = lg_mix(h, lg_load_u64(code + l->co_name));
    h = lg_mix(h, lg_load_u64(code + l->co_lines));
    h = lg_mix(h, lg_load_u64(code + l->co_consts));
    if (l->co_version != LG_ABSENT) {
        /* Never given twice, even where all addresses are used again. */
        h = lg_mix(h, (uint32_t)lg_load_i32(code + l->co_version));
    }
    else {
        h = lg_mix(h, name_hash);
    }
    return (uint32_t)h;
}

/* --- What is known of the interpreter --------------------------------------- */

static const char *
learn(struct lg_pystack *ps)
{
    PyInterpreterState *interp = PyInterpreterState_Main();
    fill_layout(&ps->layout);
    if (ps->layout.name == NULL || !layout_fits(&ps->layout)) {
        return OFF_REASON;
    }
    if (PyInterpreterState_Get() != interp) {
        return "not the main interpreter";
    }
    ps->interp = (uint64_t)(uintptr_t)interp;
    ps->code_type = (uint64_t)(uintptr_t)&PyCode_Type;
    ps->str_type = (uint64_t)(uintptr_t)&PyUnicode_Type;
    ps->bytes_type = (uint64_t)(uintptr_t)&PyBytes_Type;
    ps->pthread_tid = find_pthread_tid();
    fill_gil(ps, interp);
    return NULL;
}

static bool
layout_fits(const struct lg_pylayout *l)
{
    return l->ts_bytes <= LG_TSTATE_BYTES && l->fr_bytes <= LG_FRAME_BYTES &&
           l->co_bytes <= LG_CODE_BYTES;
}

/* 3.9 and 3.10 know a thread's pthread_t only. glibc tells debuggers where in
 * it the kernel's number lies; other libcs do not. */
static uint32_t
find_pthread_tid(void)
{
    const uint32_t *desc = dlsym(RTLD_DEFAULT, "_thread_db_pthread_tid");
    if (desc == NULL || desc[0] != 32 || desc[1] != 1 || desc[2] == 0 || desc[2] > 4096) {
        return 0;
    }
    const char *self = (const char *)(uintptr_t)PyThread_get_thread_ident();
    return lg_load_i32(self + desc[2]) == (int32_t)syscall(SYS_gettid) ? desc[2] : 0;
}

static void
set_reason(char *reason, size_t size_bytes, const char *why)
{
    size_t n = why != NULL ? strlen(why) : 0;
    n = n < size_bytes ? n : size_bytes - 1;
    if (n > 0) {
        memcpy(reason, why, n);
    }
    reason[n] = '\0';
}

/* Runs Python code; a pending exception stays as it was. */
static void
test_it(struct lg_pystack *ps)
{
    struct lg_pystack_walker *walker = NULL;
    /* PyErr_Fetch() is deprecated from 3.12 on, the new name is not older. */
#if PY_VERSION_HEX >= 0x030c0000
    PyObject *pending = PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
#endif
    const char *why = "own memory cannot be read here";
    if (lg_pystack_walker_open(ps, &walker) == 0) {
        why = lg_pystack_selftest(ps, walker);
    }
    set_reason(ps->reason, sizeof(ps->reason), why);
    if (why == NULL) {
        why = lg_pystack_selftest_gil(ps, walker);
    }
    set_reason(ps->gil_reason, sizeof(ps->gil_reason), why);
    lg_pystack_walker_close(walker);
    PyErr_Clear();
#if PY_VERSION_HEX >= 0x030c0000
    PyErr_SetRaisedException(pending);
#else
    PyErr_Restore(type, value, traceback);
#endif
}

/* --- One walk -------------------------------------------------------------- */

/* Copies the chain of frames as it is met. What it holds is consistent only if
 * the thread stood still. */
static int
walk_thread(struct lg_pystack_walker *w, const struct lg_pystack_thread *thread,
            struct lg_pywalk *walk)
{
    const struct lg_pylayout *l = &w->ps->layout;
    copy_again(w);
    const char *ts = copy_of(w, thread->tstate, l->ts_bytes, false);
    if (ts == NULL) {
        return w->copy_err == -EFAULT ? -ESRCH : w->copy_err;
    }
    if (lg_load_u64(ts + l->ts_interp) != w->ps->interp) {
        return -ESRCH;
    }
    walk->whole = false;
    walk->depth = 0;
    walk->tstate_id = lg_load_u64(ts + l->ts_id);
    walk->chunk = l->ts_chunk != LG_ABSENT ? lg_load_u64(ts + l->ts_chunk) : 0;
    if (thread->tstate_id != 0 && walk->tstate_id != thread->tstate_id) {
        return -ESRCH;          /* another thread's, at the same address */
    }

    uint64_t leaf[2] = {lg_load_u64(ts + l->ts_frame), 0};
    uint64_t leaf_at[2] = {thread->tstate + l->ts_frame, 0};
    uint64_t frame = leaf[0];
    if (l->cframe_frame != LG_ABSENT) {
        leaf_at[1] = frame + l->cframe_frame;
        const char *cframe = copy_of(w, leaf_at[1], sizeof(frame), false);
        if (cframe == NULL) {
            return -EAGAIN;
        }
        leaf[1] = frame = lg_load_u64(cframe);
    }
    uint64_t callee = frame;
    for (uint32_t steps = 0; frame != 0 && steps < 2 * LG_WALK_MAX; steps++) {
        if (walk->depth == LG_WALK_MAX) {
            break;
        }
        /* Frames of plain functions lie on a stack that grows upwards, callers
         * below: there one copy, from the start of the page, brings several. */
        bool near = !l->frame_objects && callee - frame < STACK_NEAR_BYTES;
        const char *bytes = copy_of(w, frame, l->fr_bytes, near);
        struct raw_frame raw;
        if (bytes == NULL || !parse_frame(l, frame, bytes, &raw)) {
            return -EAGAIN;
        }
        if (raw.entry.owner != LG_OWNER_C) {
            walk->entries[walk->depth++] = raw.entry;
        }
        callee = frame;
        frame = raw.previous;
    }
    walk->whole = frame == 0;
    walk->steady = leaf_is_same(w, leaf_at, leaf);
    return 0;
}

/* Starts a capture: keeps the places that the one before has met. */
static void
forget_unused(struct lg_pystack_walker *w)
{
    uint32_t n = 0;
    w->copied_bytes = 0;
    for (uint32_t i = 0; i < w->copy_count; i++) {
        struct lg_pycopy copy = w->copies[i];
        if (copy.used) {
            copy.used = false;
            copy.at = w->copied_bytes;
            w->copied_bytes += copy.size_bytes;
            w->copies[n++] = copy;
        }
    }
    w->copy_count = n;
}

/* Starts a walk: copies all known places afresh, with one call. */
static void
copy_again(struct lg_pystack_walker *w)
{
    struct lg_memspan spans[LG_COPIES + 2];
    uint32_t n = 0;
    for (; n < w->copy_count; n++) {
        const struct lg_pycopy *copy = &w->copies[n];
        spans[n] = (struct lg_memspan){copy->start, w->copied + copy->at, copy->size_bytes};
    }
    for (int i = 0; i < 2 && w->leaf_at[i] != 0; i++) {
        spans[n++] = (struct lg_memspan){w->leaf_at[i], &w->leaf_end[i], sizeof(uint64_t)};
    }
    if (n > 0 && lg_memread_gather(&w->mem, spans, n) != 0) {
        w->copy_count = 0;      /* some of it is gone: as it is met, then */
        w->copied_bytes = 0;
        w->leaf_at[0] = 0;
    }
    w->missed = false;
    w->cursor = 0;
}

/* Ends a walk: is the innermost frame still the one that the walk began with? */
static bool
leaf_is_same(struct lg_pystack_walker *w, const uint64_t *at, const uint64_t *value)
{
    bool known = !w->missed && at[0] == w->leaf_at[0] && at[1] == w->leaf_at[1];
    for (int i = 0; i < 2 && at[i] != 0 && !known; i++) {
        w->leaf_at[i] = at[i];
        if (lg_memread_copy(&w->mem, at[i], &w->leaf_end[i], sizeof(w->leaf_end[i])) != 0) {
            w->leaf_at[0] = 0;
            return false;
        }
    }
    return w->leaf_end[0] == value[0] && (at[1] == 0 || w->leaf_end[1] == value[1]);
}

/* The bytes at `addr` as they were at some time since the walk began, valid
 * until the next call; NULL, with `copy_err` set, when they cannot be read.
 * `with_page` copies from the start of the page, which faults no sooner than
 * the piece itself. */
static const char *
copy_of(struct lg_pystack_walker *w, uint64_t addr, uint32_t size_bytes, bool with_page)
{
    const char *known = known_copy(w, addr, size_bytes);
    if (known != NULL) {
        return known;
    }
    uint32_t before = with_page ? (uint32_t)(addr & 4095) : 0;
    struct lg_pycopy copy = {
        .start = addr - before,
        .size_bytes = before + size_bytes,
        .at = w->copied_bytes,
        .used = true,
    };
    bool has_room =
        w->copy_count < LG_COPIES && copy.size_bytes <= LG_COPIES_BYTES - w->copied_bytes;
    char *to = has_room ? w->copied + copy.at : w->spare;
    w->missed = true;
    w->copy_err = lg_memread_copy(&w->mem, copy.start, to, copy.size_bytes);
    if (w->copy_err != 0) {
        return NULL;
    }
    if (has_room) {
        w->cursor = w->copy_count;
        w->copies[w->copy_count++] = copy;
        w->copied_bytes += copy.size_bytes;
    }
    return to + before;
}

static const char *
known_copy(struct lg_pystack_walker *w, uint64_t addr, uint32_t size_bytes)
{
    /* The stack is met in the order of the last walk: start where that ended. */
    for (uint32_t i = 0; i < w->copy_count; i++) {
        uint32_t k = w->cursor + i < w->copy_count ? w->cursor + i : w->cursor + i - w->copy_count;
        struct lg_pycopy *copy = &w->copies[k];
        uint64_t before = addr - copy->start;
        if (before < copy->size_bytes && copy->size_bytes - before >= size_bytes) {
            copy->used = true;
            w->cursor = k;
            return w->copied + copy->at + before;
        }
    }
    return NULL;
}

/* False when these bytes cannot be a running frame. */
static bool
parse_frame(const struct lg_pylayout *l, uint64_t addr, const char *bytes, struct raw_frame *out)
{
    uint64_t code = lg_load_u64(bytes + l->fr_code) & ~l->code_tag_mask;
    int64_t offset;
    out->previous = lg_load_u64(bytes + l->fr_previous);
    out->entry = (struct lg_pyentry){.frame = addr, .code = code};
    if (l->frame_objects) {
        if (lg_load_u64(bytes + offsetof(PyObject, ob_refcnt)) == 0) {
            return false;       /* kept for the next call, its f_back cleared */
        }
        offset = (int64_t)lg_load_i32(bytes + l->fr_instr) * l->lasti_bytes;
        out->entry.owner =
            lg_load_u64(bytes + l->fr_owner) != 0 ? LG_OWNER_GENERATOR : LG_OWNER_THREAD;
    }
    else {
        out->entry.owner = (uint8_t)bytes[l->fr_owner];
        if (out->entry.owner == LG_OWNER_C) {
            return true;        /* its code is None or the interpreter's own */
        }
        if (out->entry.owner > LG_OWNER_GENERATOR) {
            return false;       /* a frame that has ended and is kept by an object */
        }
        offset = (int64_t)(lg_load_u64(bytes + l->fr_instr) - code - l->co_instr);
    }
    if (offset < FRAME_BEGIN || offset > INT32_MAX) {
        return false;
    }
    out->entry.offset = (int32_t)offset;
    return true;
}

/* --- Several walks ---------------------------------------------------------- */

static bool
walks_agree(const struct lg_pywalk *a, const struct lg_pywalk *b)
{
    return a->whole == b->whole && a->depth == b->depth && a->tstate_id == b->tstate_id &&
           memcmp(a->entries, b->entries, a->depth * sizeof(a->entries[0])) == 0;
}

static void
drop_leaf(struct lg_pywalk *walk)
{
    walk->depth--;
    memmove(walk->entries, walk->entries + 1, walk->depth * sizeof(walk->entries[0]));
}

/* Leaves in `common` the frames next to the root that `walk` has too; `walks`
 * of them were seen before. False when this walk says nothing about the root:
 * a generator's frame is the last one only while it is being suspended, or at
 * the bottom of a thread of C code, which is rare enough to be left out. */
static bool
narrow_common(struct lg_pywalk *common, uint32_t walks, const struct lg_pywalk *walk)
{
    if (root_of(walk) == 0 || walk->entries[walk->depth - 1].owner != LG_OWNER_THREAD) {
        return false;
    }
    if (walks == 0) {
        memcpy(common, walk, offsetof(struct lg_pywalk, entries));
        memcpy(common->entries, walk->entries, walk->depth * sizeof(walk->entries[0]));
        return true;
    }
    uint32_t n = 0;
    while (n < common->depth && n < walk->depth &&
           memcmp(&common->entries[common->depth - 1 - n], &walk->entries[walk->depth - 1 - n],
                  sizeof(walk->entries[0])) == 0) {
        n++;
    }
    /* The first to differ may be the same frame, further on: then it is the
     * function that runs or calls, and only its line is of one of the walks.
     * Its callers stand still, so it was called from where they say. */
    if (n < common->depth && n < walk->depth &&
        same_frame(&common->entries[common->depth - 1 - n], &walk->entries[walk->depth - 1 - n])) {
        n++;
    }
    if (common->tstate_id != walk->tstate_id) {
        n = 0;
    }
    memmove(common->entries, common->entries + (common->depth - n), n * sizeof(common->entries[0]));
    common->depth = n;
    return true;
}

static bool
same_frame(const struct lg_pyentry *a, const struct lg_pyentry *b)
{
    return a->frame == b->frame && a->code == b->code && a->owner == b->owner;
}

static uint64_t
root_of(const struct lg_pywalk *walk)
{
    return walk->whole && walk->depth > 0 ? walk->entries[walk->depth - 1].frame : 0;
}

/* A walk that ran into a frame just unlinked ends early, and more than one in a
 * row may end at the same place. That this is the end is known when it is
 *   - the anchor recorded when the thread was described, or
 *   - the first frame on the thread's data stack (3.11+; a greenlet has a data
 *     stack of its own, so that holds there too).
 * Else more walks must agree on it. */
static bool
root_is_proven(struct lg_pystack_walker *w, const struct lg_pystack_thread *thread,
               const struct lg_pywalk *walk)
{
    uint64_t root = root_of(walk);
    /* 0: deeper than a walk goes, or no frames at all; no end to prove. */
    return root == 0 || root == thread->root || root == data_stack_base(w, walk->chunk);
}

static uint64_t
data_stack_base(struct lg_pystack_walker *w, uint64_t chunk)
{
    for (int i = 0; i < CHUNKS_MAX && chunk != 0; i++) {
        const char *bytes = copy_of(w, chunk, sizeof(uint64_t), false);
        uint64_t previous = bytes != NULL ? lg_load_u64(bytes) : chunk;
        if (bytes == NULL) {
            return 0;
        }
        if (previous == 0) {
            /* The very first word of the first chunk is left free, so that
             * popping the last frame does not free the chunk. */
            return chunk + w->ps->layout.chunk_data + sizeof(void *);
        }
        chunk = previous;
    }
    return 0;
}

/* --- Code objects ---------------------------------------------------------- */

/* Turns a walk into a sample, if all its code objects are real. */
static int
check_codes(struct lg_pystack_walker *w, const struct lg_pywalk *walk,
            struct lg_pystack_sample *out)
{
    out->depth = 0;
    out->flags = 0;
    for (uint32_t done = 0; done < walk->depth; done += LG_CODE_BATCH) {
        const struct lg_pyentry *entries = walk->entries + done;
        uint32_t n = walk->depth - done < LG_CODE_BATCH ? walk->depth - done : LG_CODE_BATCH;
        int err = read_codes(w, entries, n);
        for (uint32_t i = 0; err == 0 && i < n; i++) {
            if (out->depth == LG_PYSTACK_DEPTH) {
                out->flags |= LG_PYSTACK_CUT;
                return 0;
            }
            err = keep_frame(w->ps, &entries[i], w->codes[i], w->name_hashes[i], out);
        }
        if (err != 0) {
            return -EAGAIN;
        }
    }
    return 0;
}

static int
read_codes(struct lg_pystack_walker *w, const struct lg_pyentry *entries, uint32_t count)
{
    const struct lg_pylayout *l = &w->ps->layout;
    struct lg_memspan spans[LG_CODE_BATCH];
    for (uint32_t i = 0; i < count; i++) {
        spans[i] = (struct lg_memspan){entries[i].code, w->codes[i], l->co_bytes};
    }
    int err = lg_memread_gather(&w->mem, spans, count);
    if (err != 0 || l->co_version != LG_ABSENT) {
        return err;
    }
    for (uint32_t i = 0; i < count; i++) {
        spans[i] = (struct lg_memspan){lg_load_u64(w->codes[i] + l->co_name) +
                                           offsetof(PyASCIIObject, hash),
                                       &w->name_hashes[i], sizeof(w->name_hashes[i])};
    }
    return lg_memread_gather(&w->mem, spans, count);
}

static int
keep_frame(const struct lg_pystack *ps, const struct lg_pyentry *entry, const char *code,
           uint64_t name_hash, struct lg_pystack_sample *out)
{
    const struct lg_pylayout *l = &ps->layout;
    if (!lg_pycode_is_alive(ps, code)) {
        return -EAGAIN;
    }
    if (!l->frame_objects) {
        uint64_t units = lg_load_u64(code + offsetof(PyVarObject, ob_size));
        if (entry->offset >= 0 && (uint64_t)entry->offset / sizeof(_Py_CODEUNIT) >= units) {
            return -EAGAIN;
        }
        /* As Python does: a frame that is still making its cells is left out. */
        int32_t begun = lg_load_i32(code + l->co_traceable) * (int32_t)sizeof(_Py_CODEUNIT);
        if (entry->owner == LG_OWNER_THREAD && entry->offset < begun) {
            return 0;
        }
    }
    out->frames[out->depth++] = (struct lg_pystack_frame){
        .code = entry->code,
        .offset = entry->offset,
        .stamp = lg_pycode_stamp(l, code, name_hash),
    };
    return 0;
}

/* The innermost frame of our own thread, by plain memory. */
static uint64_t
first_frame(const struct lg_pylayout *l, uint64_t tstate)
{
    uint64_t frame = lg_load_u64((const char *)(uintptr_t)tstate + l->ts_frame);
    if (l->cframe_frame != LG_ABSENT) {
        frame = lg_load_u64((const char *)(uintptr_t)frame + l->cframe_frame);
    }
    return frame;
}
