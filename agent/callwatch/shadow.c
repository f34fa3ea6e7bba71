/*
 * shadow.c - the stack beside the interpreter's own: the rarer half.
 *
 * No Python, no lock: the thread it belongs to, or somebody who keeps that one
 * out (the GIL).
 */
#include "shadow.h"

#include <stdlib.h>

#define FIRST_ENTRIES 128u
#define FIRST_TOLD 16u

static void *grown(void *array, uint32_t *capacity, uint32_t first, size_t size);

void
lg_shadow_fini(struct lg_shadow *shadow)
{
    free(shadow->entries);
    free(shadow->told);
    *shadow = (struct lg_shadow){0};
}

bool
lg_shadow_grow(struct lg_shadow *shadow)
{
    void *bigger =
        grown(shadow->entries, &shadow->capacity, FIRST_ENTRIES, sizeof(struct lg_shadow_entry));
    if (bigger == NULL) {
        return false;
    }
    shadow->entries = bigger;
    return true;
}

bool
lg_shadow_leave(struct lg_shadow *shadow, uintptr_t frame, const void *code,
                struct lg_shadow_entry *out)
{
    for (uint32_t i = shadow->depth; i-- > 0;) {
        const struct lg_shadow_entry *e = &shadow->entries[i];
        if (e->frame == frame || (e->frame == LG_SHADOW_UNKNOWN && e->code == code)) {
            *out = *e;
            shadow->depth = i;
            return true;
        }
    }
    return false;
}

uint64_t
lg_shadow_told_since(const struct lg_shadow *shadow, uint64_t watcher, uint64_t start)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < shadow->told_count; i++) {
        const struct lg_shadow_told *t = &shadow->told[i];
        sum += t->watcher == watcher && t->start >= start ? t->ticks : 0;
    }
    return sum;
}

void
lg_shadow_tell(struct lg_shadow *shadow, uint64_t watcher, uint64_t start, uint64_t ticks)
{
    uint64_t top = shadow->depth > 0 ? shadow->entries[shadow->depth - 1].start : 0;
    struct lg_shadow_told *beside = NULL;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < shadow->told_count; i++) {
        struct lg_shadow_told t = shadow->told[i];
        if (t.watcher == watcher && t.start >= start) {
            continue;                   /* within the new one */
        }
        shadow->told[kept] = t;
        /* No entry starts between the two: whoever has one has the other.
         * Keeps the list as short as the stack. */
        if (t.watcher == watcher && t.start >= top) {
            beside = &shadow->told[kept];
        }
        kept++;
    }
    shadow->told_count = kept;
    if (beside != NULL) {
        beside->ticks += ticks;
        return;
    }
    if (kept == shadow->told_capacity) {
        void *bigger =
            grown(shadow->told, &shadow->told_capacity, FIRST_TOLD, sizeof(struct lg_shadow_told));
        if (bigger == NULL) {
            return;                     /* a caller may then be told of it once more */
        }
        shadow->told = bigger;
    }
    shadow->told[shadow->told_count++] = (struct lg_shadow_told){watcher, start, ticks};
}

void
lg_shadow_forget(struct lg_shadow *shadow, uint64_t watcher)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < shadow->told_count; i++) {
        if (shadow->told[i].watcher != watcher) {
            shadow->told[kept++] = shadow->told[i];
        }
    }
    shadow->told_count = kept;
}

static void *
grown(void *array, uint32_t *capacity, uint32_t first, size_t size)
{
    uint32_t wanted = *capacity == 0 ? first : *capacity * 2;
    void *bigger = realloc(array, wanted * size);
    if (bigger != NULL) {
        *capacity = wanted;
    }
    return bigger;
}
