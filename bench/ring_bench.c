/*
 * ring_bench.c - what one record costs: ns per lg_ring_push() into a ring of
 * one's own in shared memory, the clock read by the caller not included.
 *
 * Prints one line: the best and the median of the rounds.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "lg_clock.h"
#include "lg_ring.h"

#define ROUNDS 31
#define PUSHES 1000000

static double one_round(struct lg_ring_writer *writer);
static int by_value(const void *a, const void *b);

int
main(void)
{
    double ns[ROUNDS];
    struct lg_ring_writer writer;
    size_t size = sizeof(struct lg_ring) + LG_RING_SLOTS_REQUESTS * sizeof(struct lg_slot);
    struct lg_ring *ring =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (ring == MAP_FAILED) {
        perror("ring_bench: mmap");
        return 1;
    }
    struct lg_slot *slots = (struct lg_slot *)(void *)(ring + 1);
    lg_ring_init(&writer, ring, slots, 0, LG_RING_SLOTS_REQUESTS, LG_RING_BULK);
    for (int i = 0; i < ROUNDS; i++) {
        ns[i] = one_round(&writer);
    }
    qsort(ns, ROUNDS, sizeof(ns[0]), by_value);
    printf("ring_push best_ns=%.2f median_ns=%.2f goal_ns=10\n", ns[0], ns[ROUNDS / 2]);
    return 0;
}

static double
one_round(struct lg_ring_writer *writer)
{
    uint64_t start_ns = lg_now_ns();
    for (uint64_t i = 0; i < PUSHES; i++) {
        lg_ring_push(writer, start_ns + i, LG_TAG(LG_REC_REQUEST, 0, 0, 1), i, i + 1, i + 2, i + 3,
                     i + 4);
    }
    return (double)(lg_now_ns() - start_ns) / PUSHES;
}

static int
by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}
