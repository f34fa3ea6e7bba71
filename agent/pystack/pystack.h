/*
 * pystack.h - the stack of a Python thread, taken without the GIL.
 *
 * Three callers, three ways in:
 *   the watchdog   lg_pystack_capture() of any thread, no GIL, through reads
 *                  that cannot fault (memread.h), while the thread runs on
 *   a hook         lg_pystack_capture_own(), on the thread itself, GIL or not:
 *                  plain memory, under a microsecond
 *   the step code  lg_pystack_symbol(), which turns raw frames into file,
 *                  function and line, long after the capture if need be
 *
 * Two objects. `lg_pystack` is what is known about this interpreter: layout,
 * GIL, whether the self-test passed; one per process, read-only after
 * lg_pystack_open(), shared by all threads. `lg_pystack_walker` is the tools
 * of one user (170 KiB, most of it never touched): reader, scratch, guesses. One
 * thread at a time per walker; what runs under the GIL may share one.
 *
 * A capture of a running thread is a race. It is accepted when three walks in a
 * row agree, every frame's owner and offset is possible, every code object is
 * one, and the outermost frame is the thread's own root. Else the part next to
 * the root on which all walks agree is given and marked LG_PYSTACK_MOVING; else
 * -EAGAIN. A wrong stack is worse than none.
 *
 * Functions return 0 or -errno and touch their last pointer only on success.
 * On an object that is off they return -ENOTSUP. None raises; none calls
 * Python but lg_pystack_open().
 */
#ifndef LG_PYSTACK_H
#define LG_PYSTACK_H

#include <stdbool.h>
#include <stdint.h>

#define LG_PYSTACK_DEPTH 64             /* frames kept, the innermost ones */
#define LG_PYSTACK_FILE_MAX 512         /* bytes of a file name, with the NUL */
#define LG_PYSTACK_NAME_MAX 256         /* bytes of a function name, with the NUL */

struct lg_pystack;
struct lg_pystack_walker;

/* A frame as it was captured: plain numbers, safe to keep and to copy. */
struct lg_pystack_frame {
    uint64_t code;              /* address of the code object */
    int32_t offset;             /* bytes into its instructions; < 0: not begun */
    uint32_t stamp;             /* of the code object's words, see _symbol() */
};

enum lg_pystack_flag {
    LG_PYSTACK_MOVING = 1,      /* frames inside of frames[0] are missing: the
                                   thread was running them */
    LG_PYSTACK_CUT = 2,         /* frames outside of the last one are missing */
};

struct lg_pystack_sample {
    uint32_t depth;             /* 0: the thread runs no Python code */
    uint32_t flags;
    struct lg_pystack_frame frames[LG_PYSTACK_DEPTH];   /* innermost first */
};

/* A thread whose stack is wanted. Plain data, owned by the caller. */
struct lg_pystack_thread {
    uint64_t tstate;            /* address of its PyThreadState */
    uint64_t tstate_id;         /* a new thread at the same address has another; 0: unknown */
    uint64_t root;              /* address of its outermost frame; 0: unknown */
    uint64_t pthread_id;
    int32_t native_tid;
    uint32_t reserved;
};

struct lg_pystack_symbol {
    uint64_t identity;          /* hash of file, name and line, before any cut */
    int32_t line;               /* 0: the instruction belongs to no line */
    uint16_t file_size_bytes;   /* without the NUL */
    uint16_t name_size_bytes;
    char file[LG_PYSTACK_FILE_MAX];     /* UTF-8 as stored, cut at a character */
    char name[LG_PYSTACK_NAME_MAX];     /* co_qualname (3.11+), co_name before */
};

/* --- The interpreter ------------------------------------------------------ */

/* Under the GIL, at import. Learns the layout and compares about ten real
 * stacks with sys._getframe's; when they differ, or nothing can be read, the
 * object is off and says why. Leaves the pending exception as it was.
 * Returns 0 (off included) or -ENOMEM. The caller closes `*out`. */
int lg_pystack_open(struct lg_pystack **out);
void lg_pystack_close(struct lg_pystack *ps);

/* Why captures are off, at most 39 bytes; "" when they work. */
const char *lg_pystack_reason(const struct lg_pystack *ps);

/* Why the lg_pystack_gil_* functions are off; "" when they work. */
const char *lg_pystack_gil_reason(const struct lg_pystack *ps);

/* --- One user's tools ----------------------------------------------------- */

/* Any thread, no GIL. The walker must be closed before `ps`. */
int lg_pystack_walker_open(const struct lg_pystack *ps, struct lg_pystack_walker **out);
void lg_pystack_walker_close(struct lg_pystack_walker *walker);

/* In the child after fork(), before the next use; async-signal-safe. `ps`
 * itself needs nothing; threads are described anew. */
void lg_pystack_walker_after_fork(struct lg_pystack_walker *walker);

/* How it reads, for the feature table: see lg_memread_name(). */
const char *lg_pystack_walker_reader(const struct lg_pystack_walker *walker);

/* Optional, around several calls below: what reading needs (descriptors, where
 * memory is read through a pipe) is then opened once and not for each call. */
void lg_pystack_begin(struct lg_pystack_walker *walker);
void lg_pystack_end(struct lg_pystack_walker *walker);

/* --- Threads -------------------------------------------------------------- */

/* Describes the calling thread. Under the GIL, from Python code that stays on
 * the stack for as long as the description is used (the loop's run function):
 * its outermost frame becomes the anchor. Describe again when a loop starts
 * again. -ESRCH when no Python frame is there. */
int lg_pystack_thread_here(const struct lg_pystack *ps, struct lg_pystack_thread *out);

/* Describes a thread known by its thread state only, such as the holder of the
 * GIL; it may end at any time. Fills what can be read. -ESRCH when `tstate` is
 * not a thread state of the main interpreter (any more). `native_tid` is 0
 * where it cannot be told. No GIL. */
int lg_pystack_thread_at(struct lg_pystack_walker *walker, uint64_t tstate,
                         struct lg_pystack_thread *out);

/* --- Captures ------------------------------------------------------------- */

/* Any thread, no GIL, no allocation. -EAGAIN: nothing that the walks agree on;
 * -ESRCH: the thread has ended; -EACCES: memory cannot be read any more. */
int lg_pystack_capture(struct lg_pystack_walker *walker, const struct lg_pystack_thread *thread,
                       struct lg_pystack_sample *out);

/* On the thread itself, while its thread state is its own: under the GIL, or
 * after a blocking call before the GIL is taken again. By plain memory. */
int lg_pystack_capture_own(const struct lg_pystack *ps, const struct lg_pystack_thread *thread,
                           struct lg_pystack_sample *out);

/* File, function and line of a captured frame; no GIL. -ESTALE when the code
 * object is gone: freed, or another one at its address (the stamp tells). */
int lg_pystack_symbol(struct lg_pystack_walker *walker, const struct lg_pystack_frame *frame,
                      struct lg_pystack_symbol *out);

/* --- The GIL and the collector -------------------------------------------- */

/* Where the main interpreter's GIL lies: [*start, *end). A futex or condition
 * variable inside is a wait for the GIL. */
int lg_pystack_gil_range(const struct lg_pystack *ps, uint64_t *start, uint64_t *end);

/* True when some thread holds the GIL; `*tstate` is then its thread state, or
 * 0 in the instant of a change. Plain reads of static memory, any thread. */
bool lg_pystack_gil_held(const struct lg_pystack *ps, uint64_t *tstate);

/* True while the main interpreter's collector runs. */
bool lg_pystack_collecting(struct lg_pystack_walker *walker);

#endif
