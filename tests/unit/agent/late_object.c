/*
 * late_object.c - a shared object that the tests of slots and hooks load late.
 *
 * Built twice: bound at load with read-only slots (-z now -z relro), and bound
 * at the first call (-z lazy).
 */
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

typedef pid_t (*getppid_fn)(void);

pid_t late_getppid(void);
pid_t late_getppid_by_pointer(void);
int late_sleep_ms(int ms);
extern const getppid_fn late_table[1];

/* An address in data, as in sqlite's table of system calls. */
const getppid_fn late_table[1] = {getppid};

pid_t
late_getppid(void)
{
    return getppid();
}

pid_t
late_getppid_by_pointer(void)
{
    const getppid_fn *volatile table = late_table;
    return table[0]();
}

int
late_sleep_ms(int ms)
{
    return nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL);
}
