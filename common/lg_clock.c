/*
 * lg_clock.c - three clocks read as one.
 *
 * Any thread, no lock; three calls into the vDSO.
 */
#include "lg_clock.h"

void
lg_clocks_read(struct lg_clocks *out)
{
    struct timespec real;
    struct timespec boot;
    uint64_t before_ns = lg_now_ns();
    clock_gettime(CLOCK_REALTIME, &real);
    clock_gettime(CLOCK_BOOTTIME, &boot);
    uint64_t after_ns = lg_now_ns();
    out->mono_ns = before_ns + (after_ns - before_ns) / 2;
    out->real_ns = lg_timespec_ns(&real);
    out->boot_ns = lg_timespec_ns(&boot);
    out->uncertainty_ns = after_ns - before_ns;
}
