/*
 * lg_atomic.h - the few atomic operations that the segment's protocols need.
 *
 * The only file that includes <stdatomic.h>. Every name carries its order, so
 * that a reader of the code sees the protocol. Words of the segment are plain
 * uint64_t in lg_layout.h (a reader's private copy has the same type) and are
 * touched in shared memory through these functions only.
 *
 * Each release names its partner, the acquire on the other side, at its use.
 */
#ifndef LG_ATOMIC_H
#define LG_ATOMIC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* A 64-bit word must be lock-free: a lock would live in one process only. */
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "64-bit atomics must be lock-free");
_Static_assert(sizeof(_Atomic uint64_t) == sizeof(uint64_t), "no hidden lock beside the word");
_Static_assert(_Alignof(_Atomic uint64_t) == 8, "words are 8-byte aligned");

static inline uint64_t
lg_load_relaxed(const uint64_t *p)
{
    return atomic_load_explicit((const _Atomic uint64_t *)p, memory_order_relaxed);
}

static inline uint64_t
lg_load_acquire(const uint64_t *p)
{
    return atomic_load_explicit((const _Atomic uint64_t *)p, memory_order_acquire);
}

static inline void
lg_store_relaxed(uint64_t *p, uint64_t v)
{
    atomic_store_explicit((_Atomic uint64_t *)p, v, memory_order_relaxed);
}

static inline void
lg_store_release(uint64_t *p, uint64_t v)
{
    atomic_store_explicit((_Atomic uint64_t *)p, v, memory_order_release);
}

static inline uint32_t
lg_load32_relaxed(const uint32_t *p)
{
    return atomic_load_explicit((const _Atomic uint32_t *)p, memory_order_relaxed);
}

static inline uint32_t
lg_load32_acquire(const uint32_t *p)
{
    return atomic_load_explicit((const _Atomic uint32_t *)p, memory_order_acquire);
}

static inline void
lg_store32_relaxed(uint32_t *p, uint32_t v)
{
    atomic_store_explicit((_Atomic uint32_t *)p, v, memory_order_relaxed);
}

static inline void
lg_store32_release(uint32_t *p, uint32_t v)
{
    atomic_store_explicit((_Atomic uint32_t *)p, v, memory_order_release);
}

static inline void
lg_fence_acquire(void)
{
    atomic_thread_fence(memory_order_acquire);
}

static inline void
lg_fence_release(void)
{
    atomic_thread_fence(memory_order_release);
}

/* Single-writer counter: a plain add that a reader of another process never
 * sees half done. Not a read-modify-write: only the one writer may call it. */
static inline void
lg_add_single(uint64_t *p, uint64_t n)
{
    lg_store_relaxed(p, lg_load_relaxed(p) + n);
}

/* Single-writer maximum. */
static inline void
lg_max_single(uint64_t *p, uint64_t v)
{
    if (v > lg_load_relaxed(p)) {
        lg_store_relaxed(p, v);
    }
}

/* Process-private words only, never in the segment: true when `*p` was
 * `expected` and is now `v`. Acquire on success, release on success. */
static inline bool
lg_cas(uint64_t *p, uint64_t expected, uint64_t v)
{
    return atomic_compare_exchange_strong_explicit((_Atomic uint64_t *)p, &expected, v,
                                                   memory_order_acq_rel, memory_order_acquire);
}

/* Process-private words only: stores `v`, returns what was there. */
static inline uint64_t
lg_exchange(uint64_t *p, uint64_t v)
{
    return atomic_exchange_explicit((_Atomic uint64_t *)p, v, memory_order_acq_rel);
}

/* Process-private words only: adds `n`, returns what was there. */
static inline uint64_t
lg_fetch_add(uint64_t *p, uint64_t n)
{
    return atomic_fetch_add_explicit((_Atomic uint64_t *)p, n, memory_order_acq_rel);
}

#endif
