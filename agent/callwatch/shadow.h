/*
 * shadow.h - what runs on one thread: a stack of {frame, code, start} beside
 * the interpreter's own, and what of its time was told already.
 *
 * For its thread alone; includes no Python. A frame is known by its address
 * until it is left: returned from, suspended, unwound. Exits may be missing or
 * come in another order (greenlets switch stacks): leaving a frame drops
 * whatever lies above it, and leaving one that is not there changes nothing.
 *
 * Entry points that are never dereferenced: a dropped frame may be gone.
 */
#ifndef LG_AGENT_SHADOW_H
#define LG_AGENT_SHADOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* `frame` of a call of a C function: the caller's, with this bit. */
#define LG_SHADOW_C ((uintptr_t)1)
/* `frame` of one that ran before anybody looked: known by its code alone. */
#define LG_SHADOW_UNKNOWN ((uintptr_t)0)

struct lg_shadow_entry {
    uintptr_t frame;
    const void *code;
    uint64_t start;
};

/* Time that a watcher has been told of. Lies within every entry that started
 * at or before `start`. */
struct lg_shadow_told {
    uint64_t watcher;
    uint64_t start;
    uint64_t ticks;
};

struct lg_shadow {                      /* zero it to start */
    struct lg_shadow_entry *entries;
    uint32_t depth;
    uint32_t capacity;
    struct lg_shadow_told *told;
    uint32_t told_count;
    uint32_t told_capacity;
};

void lg_shadow_fini(struct lg_shadow *shadow);

/* Makes room for one more entry; false when there is no memory. */
bool lg_shadow_grow(struct lg_shadow *shadow);

/* Without memory the entry is left out: its time is its caller's. */
static inline void
lg_shadow_push(struct lg_shadow *shadow, uintptr_t frame, const void *code, uint64_t now)
{
    if (shadow->depth == shadow->capacity && !lg_shadow_grow(shadow)) {
        return;
    }
    shadow->entries[shadow->depth++] = (struct lg_shadow_entry){frame, code, now};
}

/* Is this frame on top? */
static inline bool
lg_shadow_on_top(const struct lg_shadow *shadow, uintptr_t frame)
{
    return shadow->depth > 0 && shadow->entries[shadow->depth - 1].frame == frame;
}

/* Leaves a frame that need not be on top. False when it is not there. */
bool lg_shadow_leave(struct lg_shadow *shadow, uintptr_t frame, const void *code,
                     struct lg_shadow_entry *out);

/* How much of the time since `start` the watcher was told of. */
uint64_t lg_shadow_told_since(const struct lg_shadow *shadow, uint64_t watcher, uint64_t start);

/* It is told of `ticks` from `start` on, which includes whatever it was told
 * of within them. */
void lg_shadow_tell(struct lg_shadow *shadow, uint64_t watcher, uint64_t start, uint64_t ticks);

/* There is no such watcher any more. */
void lg_shadow_forget(struct lg_shadow *shadow, uint64_t watcher);

#endif
