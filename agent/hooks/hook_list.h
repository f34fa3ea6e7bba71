/*
 * hook_list.h - every libc function that we stand in front of, one a line.
 *
 * Only hooks.c and hook_calls.c include it. To add a function: one line here
 * when calling it and timing it is all; else a line in LG_HOOKS_BY_HAND and a
 * body in hook_calls.c.
 *
 * Structures that differ between libcs, or that no header declares (the _chk
 * and __xstat families), are passed through as void *: the registers are the
 * same. Offsets are long: only 64-bit systems have our slots.
 */
#ifndef LG_HOOK_LIST_H
#define LG_HOOK_LIST_H

#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>

#include "hooks.h"
#include "slots.h"

/* What a call works on; becomes text only when it took long. */
enum lg_about_kind { LG_ABOUT_NOTHING, LG_ABOUT_FD, LG_ABOUT_PATH, LG_ABOUT_ADDRESS, LG_ABOUT_PID };

struct lg_about {
    enum lg_about_kind kind;
    int fd;                             /* or the pid */
    const void *what;                   /* path, host name or sockaddr */
    size_t size;                        /* of the sockaddr */
};

#define ABOUT_NOTHING ((struct lg_about){LG_ABOUT_NOTHING, -1, NULL, 0})
#define ABOUT_FD(fd) ((struct lg_about){LG_ABOUT_FD, fd, NULL, 0})
#define ABOUT_PATH(path) ((struct lg_about){LG_ABOUT_PATH, -1, path, 0})
#define ABOUT_ADDRESS(fd, addr, len) ((struct lg_about){LG_ABOUT_ADDRESS, fd, addr, len})
#define ABOUT_PID(pid) ((struct lg_about){LG_ABOUT_PID, (int)(pid), NULL, 0})
#define ABOUT_STREAM(file) ABOUT_FD((file) != NULL ? fileno(file) : -1)

/* clang-format off */

/* X(result, name, kind, about, parameters, arguments) */
#define LG_HOOKS_PLAIN(X) \
    LG_HOOKS_SLEEP(X) LG_HOOKS_SOCKETS(X) LG_HOOKS_READ(X) LG_HOOKS_WRITE(X) LG_HOOKS_OPEN(X) \
    LG_HOOKS_STAT(X) LG_HOOKS_NAMES(X) LG_HOOKS_CHILDREN(X) LG_HOOKS_RESOLVE(X) LG_HOOKS_LOCKS(X)

#define LG_HOOKS_SLEEP(X) \
    X(int, nanosleep, SLEEP, ABOUT_NOTHING, (const struct timespec *t, struct timespec *rest), (t, rest)) \
    X(int, clock_nanosleep, SLEEP, ABOUT_NOTHING, \
      (clockid_t clock, int flags, const struct timespec *t, struct timespec *rest), (clock, flags, t, rest)) \
    X(int, usleep, SLEEP, ABOUT_NOTHING, (unsigned us), (us)) \
    X(unsigned, sleep, SLEEP, ABOUT_NOTHING, (unsigned s), (s)) \
    X(int, pause, SIGWAIT, ABOUT_NOTHING, (void), ()) \
    X(int, sigwait, SIGWAIT, ABOUT_NOTHING, (const sigset_t *set, int *sig), (set, sig)) \
    X(int, sigwaitinfo, SIGWAIT, ABOUT_NOTHING, (const sigset_t *set, void *info), (set, info)) \
    X(int, sigtimedwait, SIGWAIT, ABOUT_NOTHING, \
      (const sigset_t *set, void *info, const struct timespec *t), (set, info, t))

#define LG_HOOKS_SOCKETS(X) \
    X(ssize_t, recv, RECV, ABOUT_FD(fd), (int fd, void *p, size_t n, int flags), (fd, p, n, flags)) \
    X(ssize_t, recvfrom, RECV, ABOUT_FD(fd), \
      (int fd, void *p, size_t n, int flags, void *addr, socklen_t *len), (fd, p, n, flags, addr, len)) \
    X(ssize_t, recvmsg, RECV, ABOUT_FD(fd), (int fd, void *msg, int flags), (fd, msg, flags)) \
    X(int, recvmmsg, RECV, ABOUT_FD(fd), \
      (int fd, void *msgs, unsigned n, int flags, void *t), (fd, msgs, n, flags, t)) \
    X(ssize_t, __recv_chk, RECV, ABOUT_FD(fd), \
      (int fd, void *p, size_t n, size_t room, int flags), (fd, p, n, room, flags)) \
    X(ssize_t, __recvfrom_chk, RECV, ABOUT_FD(fd), \
      (int fd, void *p, size_t n, size_t room, int flags, void *addr, socklen_t *len), \
      (fd, p, n, room, flags, addr, len)) \
    X(ssize_t, send, SEND, ABOUT_FD(fd), (int fd, const void *p, size_t n, int flags), (fd, p, n, flags)) \
    X(ssize_t, sendto, SEND, ABOUT_ADDRESS(fd, addr, len), \
      (int fd, const void *p, size_t n, int flags, const void *addr, socklen_t len), \
      (fd, p, n, flags, addr, len)) \
    X(ssize_t, sendmsg, SEND, ABOUT_FD(fd), (int fd, const void *msg, int flags), (fd, msg, flags)) \
    X(int, sendmmsg, SEND, ABOUT_FD(fd), (int fd, void *msgs, unsigned n, int flags), (fd, msgs, n, flags)) \
    X(int, connect, CONNECT, ABOUT_ADDRESS(fd, addr, len), \
      (int fd, const void *addr, socklen_t len), (fd, addr, len)) \
    X(int, accept, ACCEPT, ABOUT_FD(fd), (int fd, void *addr, socklen_t *len), (fd, addr, len)) \
    X(int, accept4, ACCEPT, ABOUT_FD(fd), \
      (int fd, void *addr, socklen_t *len, int flags), (fd, addr, len, flags)) \
    X(ssize_t, sendfile, SENDFILE, ABOUT_FD(out), (int out, int in, long *at, size_t n), (out, in, at, n)) \
    X(ssize_t, sendfile64, SENDFILE, ABOUT_FD(out), (int out, int in, long *at, size_t n), (out, in, at, n)) \
    X(ssize_t, splice, SENDFILE, ABOUT_FD(in), \
      (int in, long *in_at, int out, long *out_at, size_t n, unsigned flags), \
      (in, in_at, out, out_at, n, flags)) \
    X(ssize_t, tee, SENDFILE, ABOUT_FD(in), (int in, int out, size_t n, unsigned flags), (in, out, n, flags))

#define LG_HOOKS_READ(X) \
    X(ssize_t, read, READ, ABOUT_FD(fd), (int fd, void *p, size_t n), (fd, p, n)) \
    X(ssize_t, __read_chk, READ, ABOUT_FD(fd), (int fd, void *p, size_t n, size_t room), (fd, p, n, room)) \
    X(ssize_t, readv, READ, ABOUT_FD(fd), (int fd, const void *v, int n), (fd, v, n)) \
    X(size_t, fread, READ, ABOUT_STREAM(f), (void *p, size_t size, size_t n, FILE *f), (p, size, n, f)) \
    X(size_t, __fread_chk, READ, ABOUT_STREAM(f), \
      (void *p, size_t room, size_t size, size_t n, FILE *f), (p, room, size, n, f)) \
    X(ssize_t, pread, PREAD, ABOUT_FD(fd), (int fd, void *p, size_t n, long at), (fd, p, n, at)) \
    X(ssize_t, pread64, PREAD, ABOUT_FD(fd), (int fd, void *p, size_t n, long at), (fd, p, n, at)) \
    X(ssize_t, __pread_chk, PREAD, ABOUT_FD(fd), \
      (int fd, void *p, size_t n, long at, size_t room), (fd, p, n, at, room)) \
    X(ssize_t, __pread64_chk, PREAD, ABOUT_FD(fd), \
      (int fd, void *p, size_t n, long at, size_t room), (fd, p, n, at, room)) \
    X(ssize_t, preadv, PREAD, ABOUT_FD(fd), (int fd, const void *v, int n, long at), (fd, v, n, at)) \
    X(ssize_t, preadv64, PREAD, ABOUT_FD(fd), (int fd, const void *v, int n, long at), (fd, v, n, at)) \
    X(ssize_t, preadv2, PREAD, ABOUT_FD(fd), \
      (int fd, const void *v, int n, long at, int flags), (fd, v, n, at, flags)) \
    X(ssize_t, preadv64v2, PREAD, ABOUT_FD(fd), \
      (int fd, const void *v, int n, long at, int flags), (fd, v, n, at, flags))

#define LG_HOOKS_WRITE(X) \
    X(ssize_t, write, WRITE, ABOUT_FD(fd), (int fd, const void *p, size_t n), (fd, p, n)) \
    X(ssize_t, writev, WRITE, ABOUT_FD(fd), (int fd, const void *v, int n), (fd, v, n)) \
    X(size_t, fwrite, WRITE, ABOUT_STREAM(f), (const void *p, size_t size, size_t n, FILE *f), (p, size, n, f)) \
    X(int, fflush, WRITE, ABOUT_STREAM(f), (FILE *f), (f)) \
    X(ssize_t, pwrite, PWRITE, ABOUT_FD(fd), (int fd, const void *p, size_t n, long at), (fd, p, n, at)) \
    X(ssize_t, pwrite64, PWRITE, ABOUT_FD(fd), (int fd, const void *p, size_t n, long at), (fd, p, n, at)) \
    X(ssize_t, pwritev, PWRITE, ABOUT_FD(fd), (int fd, const void *v, int n, long at), (fd, v, n, at)) \
    X(ssize_t, pwritev64, PWRITE, ABOUT_FD(fd), (int fd, const void *v, int n, long at), (fd, v, n, at)) \
    X(ssize_t, pwritev2, PWRITE, ABOUT_FD(fd), \
      (int fd, const void *v, int n, long at, int flags), (fd, v, n, at, flags)) \
    X(ssize_t, pwritev64v2, PWRITE, ABOUT_FD(fd), \
      (int fd, const void *v, int n, long at, int flags), (fd, v, n, at, flags)) \
    X(ssize_t, copy_file_range, COPY, ABOUT_FD(in), \
      (int in, long *in_at, int out, long *out_at, size_t n, unsigned flags), \
      (in, in_at, out, out_at, n, flags)) \
    X(int, fsync, SYNC, ABOUT_FD(fd), (int fd), (fd)) \
    X(int, fdatasync, SYNC, ABOUT_FD(fd), (int fd), (fd)) \
    X(int, syncfs, SYNC, ABOUT_FD(fd), (int fd), (fd)) \
    X(int, sync_file_range, SYNC, ABOUT_FD(fd), (int fd, long at, long n, unsigned flags), (fd, at, n, flags)) \
    X(int, msync, SYNC, ABOUT_NOTHING, (void *p, size_t n, int flags), (p, n, flags)) \
    X(int, truncate, TRUNCATE, ABOUT_PATH(path), (const char *path, long n), (path, n)) \
    X(int, truncate64, TRUNCATE, ABOUT_PATH(path), (const char *path, long n), (path, n)) \
    X(int, ftruncate, TRUNCATE, ABOUT_FD(fd), (int fd, long n), (fd, n)) \
    X(int, ftruncate64, TRUNCATE, ABOUT_FD(fd), (int fd, long n), (fd, n)) \
    X(int, fallocate, TRUNCATE, ABOUT_FD(fd), (int fd, int mode, long at, long n), (fd, mode, at, n)) \
    X(int, fallocate64, TRUNCATE, ABOUT_FD(fd), (int fd, int mode, long at, long n), (fd, mode, at, n)) \
    X(int, posix_fallocate, TRUNCATE, ABOUT_FD(fd), (int fd, long at, long n), (fd, at, n)) \
    X(int, posix_fallocate64, TRUNCATE, ABOUT_FD(fd), (int fd, long at, long n), (fd, at, n))

#define LG_HOOKS_OPEN(X) \
    X(int, __open_2, OPEN, ABOUT_PATH(path), (const char *path, int flags), (path, flags)) \
    X(int, __open64_2, OPEN, ABOUT_PATH(path), (const char *path, int flags), (path, flags)) \
    X(int, __openat_2, OPEN, ABOUT_PATH(path), (int dir, const char *path, int flags), (dir, path, flags)) \
    X(int, __openat64_2, OPEN, ABOUT_PATH(path), (int dir, const char *path, int flags), (dir, path, flags)) \
    X(int, creat, OPEN, ABOUT_PATH(path), (const char *path, unsigned mode), (path, mode)) \
    X(int, creat64, OPEN, ABOUT_PATH(path), (const char *path, unsigned mode), (path, mode)) \
    X(FILE *, fopen, OPEN, ABOUT_PATH(path), (const char *path, const char *mode), (path, mode)) \
    X(FILE *, fopen64, OPEN, ABOUT_PATH(path), (const char *path, const char *mode), (path, mode)) \
    X(int, close, CLOSE, ABOUT_NOTHING, (int fd), (fd)) \
    X(int, fclose, CLOSE, ABOUT_NOTHING, (FILE *f), (f)) \
    X(int, closedir, CLOSE, ABOUT_NOTHING, (void *dir), (dir)) \
    X(void *, opendir, DIR, ABOUT_PATH(path), (const char *path), (path)) \
    X(void *, fdopendir, DIR, ABOUT_FD(fd), (int fd), (fd)) \
    X(void *, readdir, DIR, ABOUT_NOTHING, (void *dir), (dir)) \
    X(void *, readdir64, DIR, ABOUT_NOTHING, (void *dir), (dir)) \
    X(ssize_t, getdents64, DIR, ABOUT_FD(fd), (int fd, void *p, size_t n), (fd, p, n))

#define LG_HOOKS_STAT(X) \
    X(int, stat, STAT, ABOUT_PATH(path), (const char *path, void *st), (path, st)) \
    X(int, stat64, STAT, ABOUT_PATH(path), (const char *path, void *st), (path, st)) \
    X(int, lstat, STAT, ABOUT_PATH(path), (const char *path, void *st), (path, st)) \
    X(int, lstat64, STAT, ABOUT_PATH(path), (const char *path, void *st), (path, st)) \
    X(int, fstat, STAT, ABOUT_FD(fd), (int fd, void *st), (fd, st)) \
    X(int, fstat64, STAT, ABOUT_FD(fd), (int fd, void *st), (fd, st)) \
    X(int, fstatat, STAT, ABOUT_PATH(path), \
      (int dir, const char *path, void *st, int flags), (dir, path, st, flags)) \
    X(int, fstatat64, STAT, ABOUT_PATH(path), \
      (int dir, const char *path, void *st, int flags), (dir, path, st, flags)) \
    X(int, statx, STAT, ABOUT_PATH(path), \
      (int dir, const char *path, int flags, unsigned mask, void *st), (dir, path, flags, mask, st)) \
    X(int, __xstat, STAT, ABOUT_PATH(path), (int v, const char *path, void *st), (v, path, st)) \
    X(int, __xstat64, STAT, ABOUT_PATH(path), (int v, const char *path, void *st), (v, path, st)) \
    X(int, __lxstat, STAT, ABOUT_PATH(path), (int v, const char *path, void *st), (v, path, st)) \
    X(int, __lxstat64, STAT, ABOUT_PATH(path), (int v, const char *path, void *st), (v, path, st)) \
    X(int, __fxstat, STAT, ABOUT_FD(fd), (int v, int fd, void *st), (v, fd, st)) \
    X(int, __fxstat64, STAT, ABOUT_FD(fd), (int v, int fd, void *st), (v, fd, st)) \
    X(int, __fxstatat, STAT, ABOUT_PATH(path), \
      (int v, int dir, const char *path, void *st, int flags), (v, dir, path, st, flags)) \
    X(int, __fxstatat64, STAT, ABOUT_PATH(path), \
      (int v, int dir, const char *path, void *st, int flags), (v, dir, path, st, flags)) \
    X(int, statvfs, STAT, ABOUT_PATH(path), (const char *path, void *st), (path, st)) \
    X(int, statvfs64, STAT, ABOUT_PATH(path), (const char *path, void *st), (path, st)) \
    X(int, fstatvfs, STAT, ABOUT_FD(fd), (int fd, void *st), (fd, st)) \
    X(int, fstatvfs64, STAT, ABOUT_FD(fd), (int fd, void *st), (fd, st)) \
    X(int, access, STAT, ABOUT_PATH(path), (const char *path, int mode), (path, mode)) \
    X(int, faccessat, STAT, ABOUT_PATH(path), \
      (int dir, const char *path, int mode, int flags), (dir, path, mode, flags)) \
    X(ssize_t, readlink, STAT, ABOUT_PATH(path), (const char *path, char *p, size_t n), (path, p, n)) \
    X(ssize_t, readlinkat, STAT, ABOUT_PATH(path), \
      (int dir, const char *path, char *p, size_t n), (dir, path, p, n)) \
    X(ssize_t, __readlink_chk, STAT, ABOUT_PATH(path), \
      (const char *path, char *p, size_t n, size_t room), (path, p, n, room)) \
    X(ssize_t, __readlinkat_chk, STAT, ABOUT_PATH(path), \
      (int dir, const char *path, char *p, size_t n, size_t room), (dir, path, p, n, room)) \
    X(char *, realpath, STAT, ABOUT_PATH(path), (const char *path, char *p), (path, p)) \
    X(char *, __realpath_chk, STAT, ABOUT_PATH(path), \
      (const char *path, char *p, size_t room), (path, p, room))

#define LG_HOOKS_NAMES(X) \
    X(int, unlink, UNLINK, ABOUT_PATH(path), (const char *path), (path)) \
    X(int, unlinkat, UNLINK, ABOUT_PATH(path), (int dir, const char *path, int flags), (dir, path, flags)) \
    X(int, rmdir, UNLINK, ABOUT_PATH(path), (const char *path), (path)) \
    X(int, remove, UNLINK, ABOUT_PATH(path), (const char *path), (path)) \
    X(int, rename, RENAME, ABOUT_PATH(path), (const char *path, const char *to), (path, to)) \
    X(int, renameat, RENAME, ABOUT_PATH(path), \
      (int dir, const char *path, int to_dir, const char *to), (dir, path, to_dir, to)) \
    X(int, renameat2, RENAME, ABOUT_PATH(path), \
      (int dir, const char *path, int to_dir, const char *to, unsigned flags), \
      (dir, path, to_dir, to, flags)) \
    X(int, link, RENAME, ABOUT_PATH(path), (const char *path, const char *to), (path, to)) \
    X(int, linkat, RENAME, ABOUT_PATH(path), \
      (int dir, const char *path, int to_dir, const char *to, int flags), (dir, path, to_dir, to, flags)) \
    X(int, symlink, RENAME, ABOUT_PATH(to), (const char *path, const char *to), (path, to)) \
    X(int, symlinkat, RENAME, ABOUT_PATH(to), (const char *path, int dir, const char *to), (path, dir, to)) \
    X(int, mkdir, MKDIR, ABOUT_PATH(path), (const char *path, unsigned mode), (path, mode)) \
    X(int, mkdirat, MKDIR, ABOUT_PATH(path), (int dir, const char *path, unsigned mode), (dir, path, mode))

#define LG_HOOKS_CHILDREN(X) \
    X(pid_t, wait, WAIT, ABOUT_NOTHING, (int *status), (status)) \
    X(pid_t, waitpid, WAIT, ABOUT_PID(pid), (pid_t pid, int *status, int options), (pid, status, options)) \
    X(int, waitid, WAIT, ABOUT_PID(id), \
      (int type, id_t id, void *info, int options), (type, id, info, options)) \
    X(pid_t, wait3, WAIT, ABOUT_NOTHING, (int *status, int options, void *usage), (status, options, usage)) \
    X(pid_t, wait4, WAIT, ABOUT_PID(pid), \
      (pid_t pid, int *status, int options, void *usage), (pid, status, options, usage)) \
    X(int, posix_spawn, SPAWN, ABOUT_PATH(path), \
      (pid_t *pid, const char *path, const void *actions, const void *attr, char *const *argv, \
       char *const *env), (pid, path, actions, attr, argv, env)) \
    X(int, posix_spawnp, SPAWN, ABOUT_PATH(path), \
      (pid_t *pid, const char *path, const void *actions, const void *attr, char *const *argv, \
       char *const *env), (pid, path, actions, attr, argv, env)) \
    X(int, system, SPAWN, ABOUT_NOTHING, (const char *command), (command))

#define LG_HOOKS_RESOLVE(X) \
    X(int, getaddrinfo, RESOLVE, ABOUT_PATH(host), \
      (const char *host, const char *service, const void *hints, void *out), (host, service, hints, out)) \
    X(int, getnameinfo, RESOLVE, ABOUT_ADDRESS(-1, addr, len), \
      (const void *addr, socklen_t len, char *host, socklen_t host_n, char *service, \
       socklen_t service_n, int flags), (addr, len, host, host_n, service, service_n, flags)) \
    X(void *, gethostbyname, RESOLVE, ABOUT_PATH(host), (const char *host), (host)) \
    X(void *, gethostbyname2, RESOLVE, ABOUT_PATH(host), (const char *host, int family), (host, family)) \
    X(int, gethostbyname_r, RESOLVE, ABOUT_PATH(host), \
      (const char *host, void *entry, char *p, size_t n, void *out, int *err), \
      (host, entry, p, n, out, err)) \
    X(int, gethostbyname2_r, RESOLVE, ABOUT_PATH(host), \
      (const char *host, int family, void *entry, char *p, size_t n, void *out, int *err), \
      (host, family, entry, p, n, out, err)) \
    X(void *, gethostbyaddr, RESOLVE, ABOUT_NOTHING, \
      (const void *addr, socklen_t len, int family), (addr, len, family)) \
    X(int, gethostbyaddr_r, RESOLVE, ABOUT_NOTHING, \
      (const void *addr, socklen_t len, int family, void *entry, char *p, size_t n, void *out, \
       int *err), (addr, len, family, entry, p, n, out, err))

#define LG_HOOKS_LOCKS(X) \
    X(int, flock, FLOCK, ABOUT_FD(fd), (int fd, int how), (fd, how)) \
    X(int, lockf, FLOCK, ABOUT_FD(fd), (int fd, int how, long n), (fd, how, n)) \
    X(int, lockf64, FLOCK, ABOUT_FD(fd), (int fd, int how, long n), (fd, how, n)) \
    X(int, sem_wait, SEM, ABOUT_NOTHING, (sem_t *sem), (sem)) \
    X(int, sem_timedwait, SEM, ABOUT_NOTHING, (sem_t *sem, const struct timespec *t), (sem, t)) \
    X(int, sem_clockwait, SEM, ABOUT_NOTHING, \
      (sem_t *sem, clockid_t clock, const struct timespec *t), (sem, clock, t)) \
    X(int, pthread_mutex_timedlock, MUTEX, ABOUT_NOTHING, \
      (pthread_mutex_t *m, const struct timespec *t), (m, t)) \
    X(int, pthread_join, JOIN, ABOUT_NOTHING, (pthread_t thread, void **out), (thread, out)) \
    X(int, pthread_timedjoin_np, JOIN, ABOUT_NOTHING, \
      (pthread_t thread, void **out, const struct timespec *t), (thread, out, t)) \
    X(int, pthread_clockjoin_np, JOIN, ABOUT_NOTHING, \
      (pthread_t thread, void **out, clockid_t clock, const struct timespec *t), (thread, out, clock, t))

/* X(result, name, parameters): their bodies stand in hook_calls.c. */
#define LG_HOOKS_BY_HAND(X) \
    X(int, epoll_wait, (int epfd, void *events, int n, int timeout_ms)) \
    X(int, epoll_pwait, (int epfd, void *events, int n, int timeout_ms, const sigset_t *mask)) \
    X(int, epoll_pwait2, \
      (int epfd, void *events, int n, const struct timespec *t, const sigset_t *mask)) \
    X(int, poll, (struct pollfd *fds, nfds_t n, int timeout_ms)) \
    X(int, __poll_chk, (struct pollfd *fds, nfds_t n, int timeout_ms, size_t room)) \
    X(int, ppoll, (struct pollfd *fds, nfds_t n, const struct timespec *t, const sigset_t *mask)) \
    X(int, __ppoll_chk, \
      (struct pollfd *fds, nfds_t n, const struct timespec *t, const sigset_t *mask, size_t room)) \
    X(int, select, (int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *t)) \
    X(int, pselect, \
      (int n, fd_set *r, fd_set *w, fd_set *e, const struct timespec *t, const sigset_t *mask)) \
    X(int, pthread_cond_wait, (pthread_cond_t *cond, pthread_mutex_t *m)) \
    X(int, pthread_cond_timedwait, \
      (pthread_cond_t *cond, pthread_mutex_t *m, const struct timespec *t)) \
    X(int, pthread_cond_clockwait, \
      (pthread_cond_t *cond, pthread_mutex_t *m, clockid_t clock, const struct timespec *t)) \
    X(int, pthread_mutex_lock, (pthread_mutex_t *m)) \
    X(int, pthread_rwlock_rdlock, (pthread_rwlock_t *lock)) \
    X(int, pthread_rwlock_wrlock, (pthread_rwlock_t *lock)) \
    X(int, open, (const char *path, int flags, ...)) \
    X(int, open64, (const char *path, int flags, ...)) \
    X(int, openat, (int dir, const char *path, int flags, ...)) \
    X(int, openat64, (int dir, const char *path, int flags, ...)) \
    X(int, fcntl, (int fd, int cmd, ...)) \
    X(int, fcntl64, (int fd, int cmd, ...)) \
    X(void, sync, (void)) \
    X(pid_t, fork, (void)) \
    X(void *, dlopen, (const char *path, int flags))

/* clang-format on */

/* The real functions. fn_ is pasted on: musl makes macros of some names. */
struct lg_real {
#define LG_X(result, name, kind, about, params, args) result(*fn_##name) params;
    LG_HOOKS_PLAIN(LG_X)
#undef LG_X
#define LG_X(result, name, params) result(*fn_##name) params;
    LG_HOOKS_BY_HAND(LG_X)
#undef LG_X
};

/* Ours; addresses for the slots, never called by name. */
#define LG_X(result, name, kind, about, params, args) result lg_hook_##name params;
LG_HOOKS_PLAIN(LG_X)
#undef LG_X
#define LG_X(result, name, params) result lg_hook_##name params;
LG_HOOKS_BY_HAND(LG_X)
#undef LG_X

enum lg_hook_index {
#define LG_X(result, name, kind, about, params, args) LG_HOOK_##name,
    LG_HOOKS_PLAIN(LG_X)
#undef LG_X
#define LG_X(result, name, params) LG_HOOK_##name,
        LG_HOOKS_BY_HAND(LG_X)
#undef LG_X
            LG_HOOK_COUNT
};

/* The one global besides the thread's pointer: libc's signatures carry no
 * context. `real` is complete before the first slot changes and stays. */
struct lg_hook_globals {
    struct lg_real real;
    uintptr_t gil_lo;
    uintptr_t gil_hi;
    uint64_t busy;                      /* install, rescan or uninstall is under way */
    struct lg_slots *slots;             /* NULL: not installed */
    struct lg_slot_want wants[LG_HOOK_COUNT];
};
extern struct lg_hook_globals lg_hook_globals __attribute__((visibility("hidden")));

/* BY_FD in LG_CALL_KINDS: io until the descriptor has been looked at. */
#define LG_CALL_CLASS_BY_FD LG_CALL_CLASS_COUNT

/* The call took LG_CALL_LOOK_NS or more: class by descriptor, longest, detail,
 * slow_call. Adds `class_ns` to the class. Keeps errno. */
void lg_hook_finish_slow(struct lg_calls *calls, struct lg_call *call, const struct lg_about *about,
                         uint64_t class_ns, bool tell);

#endif
