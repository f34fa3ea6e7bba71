/*
 * syscalls.c - see syscalls.h. Numbers come from the kernel's own header, so
 * the table is right on each architecture; calls that one does not have fall
 * out of it.
 */
#include "syscalls.h"

#include <stddef.h>
#include <sys/syscall.h>

#define IO_FD(name) {SYS_##name, #name, LG_CAUSE_IO, true, false}
#define IO(name) {SYS_##name, #name, LG_CAUSE_IO, false, false}
#define DISK_FD(name) {SYS_##name, #name, LG_CAUSE_DISK, true, false}
#define DISK(name) {SYS_##name, #name, LG_CAUSE_DISK, false, false}

static const struct lg_syscall table[] = {
    IO_FD(recvfrom),
    IO_FD(recvmsg),
    IO_FD(recvmmsg),
    IO_FD(sendto),
    IO_FD(sendmsg),
    IO_FD(sendmmsg),
    IO_FD(connect),
    IO_FD(accept),
    IO_FD(accept4),
    IO_FD(read),
    IO_FD(readv),
    IO_FD(write),
    IO_FD(writev),
    IO(ppoll),
    IO(pselect6),
    IO_FD(epoll_pwait),
    IO(wait4),
    IO(waitid),
    IO(nanosleep),
    IO(clock_nanosleep),
    IO(rt_sigtimedwait),
    IO_FD(sendfile),
    IO_FD(splice),
    IO(io_uring_enter),
    IO(execve),
    IO(clone),
    DISK_FD(pread64),
    DISK_FD(pwrite64),
    DISK_FD(preadv),
    DISK_FD(pwritev),
    DISK_FD(fsync),
    DISK_FD(fdatasync),
    DISK(sync),
    DISK_FD(syncfs),
    DISK_FD(sync_file_range),
    DISK(openat),
    DISK_FD(close),
    DISK_FD(fstat),
    DISK(statx),
    DISK_FD(getdents64),
    DISK(unlinkat),
    DISK(renameat2),
    DISK(mkdirat),
    DISK(truncate),
    DISK_FD(ftruncate),
    DISK_FD(fallocate),
    DISK_FD(copy_file_range),
    DISK(msync),
    DISK(mmap),
    DISK(munmap),
    DISK(madvise),
    {SYS_flock, "flock", LG_CAUSE_LOCK, true, false},
    {SYS_fcntl, "fcntl", LG_CAUSE_LOCK, true, false},
    {SYS_futex, "futex", LG_CAUSE_LOCK, false, true},
    {SYS_semtimedop, "semtimedop", LG_CAUSE_LOCK, false, false},
#ifdef SYS_poll
    IO(poll),
    IO(select),
    IO_FD(epoll_wait),
    IO(pause),
    IO(fork),
    IO(vfork),
    DISK(open),
    DISK(stat),
    DISK(lstat),
    DISK(access),
    DISK(unlink),
    DISK(rename),
    DISK(mkdir),
    DISK(rmdir),
    DISK(readlink),
    DISK_FD(getdents),
#endif
};

const struct lg_syscall *
lg_syscall_find(long number)
{
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        if (table[i].number == number) {
            return &table[i];
        }
    }
    return NULL;
}
