/*
 * hooks.c - puts our functions into the slots, and does for a long call what
 * a short one cannot afford: look at the descriptor, name the peer or path,
 * keep the longest.
 *
 * Installing wants one thread at a time (the GIL). lg_hook_finish_slow() runs
 * in the calling thread, without the GIL, perhaps in a signal handler: system
 * calls and its arguments only, no allocation, no lock.
 */
#include "hooks.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "hook_list.h"
#include "slots.h"

LG_CALLS_TLS struct lg_calls *lg_calls_tls;
struct lg_hook_globals lg_hook_globals;

/* One function: our body, and where its real one is kept. */
struct function {
    const char *name;
    void (*ours)(void);
    size_t real;                        /* offset in struct lg_real */
};

static const struct function functions[LG_HOOK_COUNT] = {
#define LG_X(result, name, kind, about, params, args) \
    {#name, (void (*)(void))lg_hook_##name, offsetof(struct lg_real, fn_##name)},
    LG_HOOKS_PLAIN(LG_X)
#undef LG_X
#define LG_X(result, name, params) \
    {#name, (void (*)(void))lg_hook_##name, offsetof(struct lg_real, fn_##name)},
        LG_HOOKS_BY_HAND(LG_X)
#undef LG_X
};

static const char *const kind_texts[] = {
#define LG_X(name, text, class) text,
    LG_CALL_KINDS(LG_X)
#undef LG_X
};

static const uint8_t kind_classes[] = {
#define LG_X(name, text, class) LG_CALL_CLASS_##class,
    LG_CALL_KINDS(LG_X)
#undef LG_X
};

static const char *const class_texts[] = {
#define LG_X(name, field, text) text,
    LG_CALL_CLASSES(LG_X)
#undef LG_X
};

static void find_real_functions(void);
static uint64_t *class_sum(struct lg_calls *calls, enum lg_call_class class);
static bool cannot_wait(enum lg_call_kind kind, int fd);
static void keep_if_longest(struct lg_calls *calls, const struct lg_call *call);
static void describe(struct lg_call *call, const struct lg_about *about);
static bool describe_socket(char *out, size_t size, int fd);
static bool describe_address(char *out, size_t size, const struct sockaddr_storage *addr,
                             socklen_t len);
static void copy_tail(char *out, size_t size, const char *text);
static const char *arrow(enum lg_call_kind kind);

/* ---- the thread's struct --------------------------------------------------- */

void
lg_calls_init(struct lg_calls *calls)
{
    memset(calls, 0, sizeof(*calls));
    calls->poll_fd = -1;
    calls->member_fd = -1;
}

void
lg_calls_attach(struct lg_calls *calls)
{
    lg_calls_tls = calls;
}

bool
lg_calls_now(const struct lg_calls *calls, uint64_t *since_ns, enum lg_call_kind *kind, int *fd)
{
    /* Acquire, twice: the words belong together when no other call began in
     * between. Pairs with the releases of begin() in hook_calls.c. */
    uint64_t since = lg_load_acquire(&calls->now_since_ns);
    uint64_t what = lg_load_acquire(&calls->now_what);
    if (since == 0 || lg_load_relaxed(&calls->now_since_ns) != since) {
        return false;
    }
    *since_ns = since;
    *kind = (enum lg_call_kind)(what >> 32);
    *fd = (int)(uint32_t)what;
    return true;
}

const struct lg_call *
lg_calls_longest_since(const struct lg_calls *calls, uint64_t since_ns)
{
    for (uint32_t i = 0; i < calls->longest_count; i++) {
        if (calls->longest[i].start_ns >= since_ns) {
            return &calls->longest[i];
        }
    }
    return NULL;
}

void
lg_calls_reset_longest(struct lg_calls *calls)
{
    calls->longest_count = 0;
}

uint64_t
lg_calls_longest(const struct lg_calls *calls, uint64_t since_ns, char *text, size_t size)
{
    const struct lg_call *call = lg_calls_longest_since(calls, since_ns);
    if (call == NULL) {
        text[0] = '\0';
        return 0;
    }
    lg_call_format(call, text, size);
    return call->dur_ns;
}

void
lg_call_format(const struct lg_call *call, char *text, size_t size)
{
    char fd[24] = "";
    if (call->fd >= 0) {
        snprintf(fd, sizeof(fd), " fd %d", call->fd);
    }
    const char *between = call->detail[0] == '\0' ? "" : arrow(call->kind);
    snprintf(text, size, "%s%s%s%s", kind_texts[call->kind], fd, between, call->detail);
}

static const char *
arrow(enum lg_call_kind kind)
{
    switch (kind) {
    case LG_CALL_RECV:
    case LG_CALL_ACCEPT:
        return " <- ";
    case LG_CALL_SEND:
    case LG_CALL_CONNECT:
        return " -> ";
    default:
        return " ";
    }
}

const char *
lg_call_kind_text(enum lg_call_kind kind)
{
    return (unsigned)kind < LG_CALL_KIND_COUNT ? kind_texts[kind] : "";
}

const char *lg_call_class_text(enum lg_call_class class)
{
    return (unsigned)class < LG_CALL_CLASS_COUNT ? class_texts[class] : "";
}

enum lg_call_class
lg_call_kind_class(enum lg_call_kind kind)
{
    enum lg_call_class class = kind_classes[kind];
    return class == LG_CALL_CLASS_BY_FD ? LG_CALL_CLASS_IO : class;
}

enum lg_call_class
lg_call_class_of(enum lg_call_kind kind, int fd)
{
    struct stat st;
    if (kind_classes[kind] != LG_CALL_CLASS_BY_FD) {
        return kind_classes[kind];
    }
    bool is_disk =
        fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode) || S_ISBLK(st.st_mode));
    return is_disk ? LG_CALL_CLASS_DISK : LG_CALL_CLASS_IO;
}

uint64_t
lg_calls_class_ns(const struct lg_calls *calls, enum lg_call_class class)
{
    return lg_load_relaxed(class_sum((struct lg_calls *)calls, class));
}

static uint64_t *
class_sum(struct lg_calls *calls, enum lg_call_class class)
{
    switch (class) {
#define LG_X(name, field, text) \
    case LG_CALL_CLASS_##name: \
        return &calls->field;
        LG_CALL_CLASSES(LG_X)
#undef LG_X
    default:
        return &calls->io_ns;
    }
}

/* ---- install and uninstall --------------------------------------------------- */

int
lg_hooks_install(char *reason, size_t size)
{
    struct lg_hook_globals *g = &lg_hook_globals;
    int err;
    snprintf(reason, size, "%s", "");
    if (!lg_cas(&g->busy, 0, 1)) {
        snprintf(reason, size, "being installed by another thread");
        return -EAGAIN;
    }
    if (g->slots == NULL) {
        find_real_functions();
        err = lg_slots_open(&g->slots, g->wants, LG_HOOK_COUNT);
        if (err != 0) {
            snprintf(reason, size, "no slots: %s", strerror(-err));
            goto done;
        }
    }
    err = lg_slots_scan(g->slots);
    struct lg_slots_count count;
    lg_slots_count(g->slots, &count);
    if (err == 0 && count.held == 0) {
        err = -ENOENT;
    }
    if (err != 0) {
        snprintf(reason, size, "no slots: %s",
                 err == -ENOENT ? "is libc linked statically?" : strerror(-err));
        lg_slots_close(g->slots);
        g->slots = NULL;
    }
done:
    lg_store_release(&g->busy, 0);
    return err;
}

int
lg_hooks_rescan(void)
{
    struct lg_hook_globals *g = &lg_hook_globals;
    if (!lg_cas(&g->busy, 0, 1)) {
        return -EAGAIN;
    }
    int err = g->slots != NULL ? lg_slots_scan(g->slots) : 0;
    lg_store_release(&g->busy, 0);
    return err;
}

void
lg_hooks_uninstall(void)
{
    struct lg_hook_globals *g = &lg_hook_globals;
    if (!lg_cas(&g->busy, 0, 1)) {
        return;
    }
    lg_slots_close(g->slots);
    g->slots = NULL;
    lg_store_release(&g->busy, 0);
}

void
lg_hooks_set_gil_range(uintptr_t lo, uintptr_t hi)
{
    lg_hook_globals.gil_lo = lo;
    lg_hook_globals.gil_hi = hi;
}

void
lg_hooks_status(struct lg_hooks_status *out)
{
    struct lg_hook_globals *g = &lg_hook_globals;
    *out = (struct lg_hooks_status){.functions = LG_HOOK_COUNT};
    if (g->slots == NULL || !lg_cas(&g->busy, 0, 1)) {
        return;
    }
    struct lg_slots_count count;
    lg_slots_count(g->slots, &count);
    out->installed = true;
    out->objects = count.objects;
    out->slots = count.held;
    out->foreign = count.foreign;
    out->refused = count.refused;
    for (size_t i = 0; i < LG_HOOK_COUNT; i++) {
        out->missing += g->wants[i].next == 0;
    }
    out->poll_slots = lg_slots_held(g->slots, LG_HOOK_epoll_wait) +
                      lg_slots_held(g->slots, LG_HOOK_epoll_pwait) +
                      lg_slots_held(g->slots, LG_HOOK_epoll_pwait2);
    lg_store_release(&g->busy, 0);
}

/* dlopen() looks for bare names where its caller's RUNPATH says, and the caller
 * would be us. The interpreter alone always gives a path: only its slot is
 * replaced. Without an interpreter, none.
 *
 * The interpreter's own mutexes guard a few words of the GIL and are taken a
 * dozen times a request; who really waits for the GIL does so on its condition
 * variable. They are left alone. */
static void
find_real_functions(void)
{
    struct lg_hook_globals *g = &lg_hook_globals;
    uintptr_t interpreter = (uintptr_t)dlsym(RTLD_DEFAULT, "PyImport_ImportModule");
    for (size_t i = 0; i < LG_HOOK_COUNT; i++) {
        uintptr_t next = lg_slots_next(functions[i].name);
        if (i == LG_HOOK_dlopen && interpreter == 0) {
            next = 0;
        }
        g->wants[i] = (struct lg_slot_want){
            .name = functions[i].name,
            .ours = (uintptr_t)functions[i].ours,
            .next = next,
            .only_in = i == LG_HOOK_dlopen ? interpreter : 0,
            .not_in = i == LG_HOOK_pthread_mutex_lock ? interpreter : 0,
        };
        /* The member has a function's own type; its bytes are an address. */
        memcpy((char *)&g->real + functions[i].real, &next, sizeof(next));
    }
}

/* ---- the end of a long call ----------------------------------------------------- */

void
lg_hook_finish_slow(struct lg_calls *calls, struct lg_call *call, const struct lg_about *about,
                    uint64_t class_ns, bool tell)
{
    int saved = errno;
    call->class = lg_call_class_of(call->kind, about->fd);
    if (call->class == LG_CALL_CLASS_IO && about->kind != LG_ABOUT_PID &&
        cannot_wait(call->kind, about->fd)) {
        errno = saved;
        return;
    }
    lg_add_single(class_sum(calls, call->class), class_ns);
    if (call->kind != LG_CALL_GIL) {    /* a chain is counted where it begins */
        lg_add_single(&calls->class_calls[call->class], 1);
    }
    call->fd = about->kind == LG_ABOUT_PID ? -1 : about->fd;
    if (call->dur_ns >= LG_CALL_NAME_NS) {
        describe(call, about);
    }
    keep_if_longest(calls, call);
    if (tell && calls->slow_call != NULL) {
        calls->slow_call(calls, call);
    }
    errno = saved;
}

/* A socket of the loop's own never waits: what took the time was copying, or
 * another thread on this core. The thread's clocks tell which. */
static bool
cannot_wait(enum lg_call_kind kind, int fd)
{
    switch (kind) {
    case LG_CALL_RECV:
    case LG_CALL_SEND:
    case LG_CALL_CONNECT:
    case LG_CALL_ACCEPT:
    case LG_CALL_READ:
    case LG_CALL_WRITE:
    case LG_CALL_SENDFILE: {
        int flags = fcntl(fd, F_GETFL);
        return flags >= 0 && (flags & O_NONBLOCK) != 0;
    }
    default:
        return false;
    }
}

/* In order of time, each longer than all after it: so the first one that began
 * late enough is the longest of any stretch that ends now. When full the last
 * makes room; it can be missed only by a stretch that began with it. */
static void
keep_if_longest(struct lg_calls *calls, const struct lg_call *call)
{
    uint32_t n = calls->longest_count;
    while (n > 0 && calls->longest[n - 1].dur_ns <= call->dur_ns) {
        n--;
    }
    if (n == LG_CALL_LONGEST) {
        n--;
    }
    calls->longest[n] = *call;
    calls->longest_count = n + 1;
}

static void
describe(struct lg_call *call, const struct lg_about *about)
{
    char *out = call->detail;
    size_t size = sizeof(call->detail);
    switch (about->kind) {
    case LG_ABOUT_FD:
        lg_call_describe_fd(out, size, about->fd);
        break;
    case LG_ABOUT_PATH:
        copy_tail(out, size, about->what != NULL ? about->what : "");
        break;
    case LG_ABOUT_ADDRESS:
        if (about->what == NULL ||
            !describe_address(out, size, about->what, (socklen_t)about->size)) {
            lg_call_describe_fd(out, size, about->fd);
        }
        break;
    case LG_ABOUT_PID:
        snprintf(out, size, about->fd > 0 ? "pid %d" : "any child", about->fd);
        break;
    case LG_ABOUT_NOTHING:
        break;
    }
}

void
lg_call_describe_fd(char *out, size_t size, int fd)
{
    char link[40];
    char path[512];
    if (fd < 0 || describe_socket(out, size, fd)) {
        return;
    }
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof(path) - 1);
    if (n > 0) {
        path[n] = '\0';
        if (strncmp(path, "pipe:", 5) == 0) {
            path[4] = '\0';             /* its number tells nobody anything */
        }
        copy_tail(out, size, path);
    }
}

/* The peer; for a listening or unconnected socket its own address. */
static bool
describe_socket(char *out, size_t size, int fd)
{
    struct sockaddr_storage addr;
    socklen_t len = sizeof(addr);
    char text[LG_CALL_DETAIL - 8];
    if (getpeername(fd, (struct sockaddr *)&addr, &len) == 0) {
        if (!describe_address(out, size, &addr, len)) {
            snprintf(out, size, "socketpair");
        }
        return true;
    }
    len = sizeof(addr);
    if (getsockname(fd, (struct sockaddr *)&addr, &len) != 0) {
        return false;
    }
    if (describe_address(text, sizeof(text), &addr, len)) {
        snprintf(out, size, "at %s", text);
    }
    else {
        snprintf(out, size, "socket");
    }
    return true;
}

/* False: an address without a name. */
static bool
describe_address(char *out, size_t size, const struct sockaddr_storage *addr, socklen_t len)
{
    char host[INET6_ADDRSTRLEN];
    if (len < sizeof(sa_family_t)) {
        return false;
    }
    if (addr->ss_family == AF_INET && len >= sizeof(struct sockaddr_in)) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)addr;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
        snprintf(out, size, "%s:%u", host, ntohs(in->sin_port));
        return true;
    }
    if (addr->ss_family == AF_INET6 && len >= sizeof(struct sockaddr_in6)) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)addr;
        inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof(host));
        snprintf(out, size, "[%s]:%u", host, ntohs(in->sin6_port));
        return true;
    }
    size_t path_at = offsetof(struct sockaddr_un, sun_path);
    if (addr->ss_family == AF_UNIX && len > path_at) {
        const struct sockaddr_un *un = (const struct sockaddr_un *)addr;
        size_t room = len - path_at;
        bool abstract = un->sun_path[0] == '\0';
        snprintf(out, size, "unix:%s%.*s", abstract ? "@" : "",
                 (int)strnlen(un->sun_path + abstract, room - abstract), un->sun_path + abstract);
        return true;
    }
    return false;
}

/* The end of a path says more than its beginning. Starts at a whole character. */
static void
copy_tail(char *out, size_t size, const char *text)
{
    size_t n = strlen(text);
    if (n < size) {
        memcpy(out, text, n + 1);
        return;
    }
    const char *from = text + n - (size - 4);
    while (((unsigned char)*from & 0xc0) == 0x80) {
        from++;
    }
    snprintf(out, size, "...%s", from);
}
