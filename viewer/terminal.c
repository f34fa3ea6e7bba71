/*
 * terminal.c - the only file that includes curses.
 *
 * ncurses restores the terminal on TERM and INT only, and not at all after a
 * crash. So at start the modes are saved and one string is built from terminfo
 * that undoes what we switch on; the handler of fatal signals needs just
 * tcsetattr() and write(), which POSIX allows there. SIGTSTP is left to
 * ncurses, which does it right.
 *
 * `idlok` and `scrollok` stay off: a table gains nothing from moving lines,
 * and some terminals do it wrong.
 */
#include "terminal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

#define NCURSES_WIDECHAR 1
#define NCURSES_NOMACROS 1
#include <curses.h>
#include <term.h>
#undef columns                          /* a capability; we mean a number */
#undef lines

#define RESTORE_MAX 256
#define ESCAPE_MS 50                    /* a lone Esc waits this long for its sequence */
#define EMPTY_READS 5                   /* "readable" with nothing to read: it is gone */

struct lg_term {
    SCREEN *screen;
    FILE *in;
    int in_fd;
    bool color;
    struct lg_canvas shown;             /* what is on the screen */
    bool all;                           /* draw every cell next time */
    int empty_reads;
    int click_row;
    int click_column;
    attr_t attribute[LG_STYLE_COUNT];
    short pair[LG_STYLE_COUNT];
};

/* What the handlers need. Written before they are installed. */
static struct {
    struct lg_term *term;               /* NULL: the terminal is not ours */
    volatile sig_atomic_t taken;        /* there is something to restore */
    volatile sig_atomic_t noted;        /* TERM, INT or HUP */
    volatile sig_atomic_t continued;
    int tty;
    int out;
    struct termios modes;
    char restore[RESTORE_MAX];
    size_t restore_length;
    int kept_stderr;                    /* memfd, -1 = stderr was left alone */
    int real_stderr;
    char fault[160];                    /* around the signal's number and name */
    struct sigaction bus_before;
} state = {.kept_stderr = -1, .real_stderr = -1};

/* Signals that say something is wrong with us, and their names: strsignal()
 * may allocate. */
static const struct {
    int signo;
    const char *text;
} faults[] = {
    {SIGSEGV, "11, Segmentation fault"},
    {SIGBUS, "7, Bus error"},
    {SIGFPE, "8, Floating point exception"},
    {SIGILL, "4, Illegal instruction"},
    {SIGABRT, "6, Aborted"},
    {SIGSYS, "31, Bad system call"},
};
/* Others that end a process and leave the terminal to us. */
static const int enders[] = {SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM,
                             SIGPROF, SIGXCPU, SIGXFSZ, SIGTRAP};
static const int asked[] = {SIGTERM, SIGINT, SIGHUP};
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static int open_keyboard(void);
static int check_terminfo(int out, char *why, size_t size);
static void build_restore(const char *program);
static void append_capability(const char *name);
static void set_modes(struct lg_term *term, bool mouse);
static void choose_attributes(struct lg_term *term);
static void catch_signals(void);
static void release_signals(void);
static void on_asked(int signo);
static void on_continued(int signo);
static void on_fatal(int signo, siginfo_t *info, void *context);
static void restore_in_handler(void);
static void keep_stderr(void);
static void give_stderr_back(void);
static void copy_kept(int to);
static bool sync_shown(struct lg_term *term, const struct lg_canvas *canvas);
static void draw_row(struct lg_term *term, const struct lg_canvas *canvas, int row);
static int translate(struct lg_term *term, wint_t code);
static int mouse_key(struct lg_term *term);
static void follow_size(struct lg_term *term);

int
lg_term_start(const struct lg_term_options *options, struct lg_term **out, char *why, size_t size)
{
    int err = check_terminfo(STDOUT_FILENO, why, size);
    if (err != 0) {
        return err;
    }
    struct lg_term *term = calloc(1, sizeof(*term));
    if (term == NULL) {
        snprintf(why, size, "out of memory");
        return -ENOMEM;
    }
    term->in_fd = open_keyboard();
    term->in = term->in_fd < 0 ? NULL : fdopen(term->in_fd, "r");
    if (term->in == NULL || tcgetattr(term->in_fd, &state.modes) < 0) {
        err = -errno;
        snprintf(why, size, "no terminal to read keys from: %s", strerror(-err));
        goto failed;
    }
    use_tioctl(TRUE);                   /* the window's size, not $COLUMNS of a shell */
    term->screen = newterm(NULL, stdout, term->in);
    if (term->screen == NULL) {
        err = -EINVAL;
        snprintf(why, size,
                 "terminal type '%s' cannot place the cursor\n"
                 "Set TERM, for example TERM=xterm, or use --once.",
                 getenv("TERM"));
        goto failed;
    }
    state.tty = term->in_fd;
    state.out = STDOUT_FILENO;
    state.term = term;
    build_restore(options->program);
    state.taken = 1;
    term->color = options->color;
    set_modes(term, options->mouse);
    choose_attributes(term);
    keep_stderr();
    catch_signals();
    term->all = true;
    *out = term;
    return 0;
failed:
    if (term->in != NULL) {
        fclose(term->in);
    }
    else if (term->in_fd >= 0) {
        close(term->in_fd);
    }
    free(term);
    return err;
}

void
lg_term_stop(struct lg_term *term)
{
    if (term == NULL) {
        return;
    }
    if (state.taken) {
        endwin();
        /* endwin() puts back the modes that curses saw; these are the ones
         * from before it looked. */
        tcsetattr(term->in_fd, TCSADRAIN, &state.modes);
    }
    release_signals();
    state.taken = 0;
    state.term = NULL;
    give_stderr_back();
    delscreen(term->screen);
    fclose(term->in);
    lg_canvas_free(&term->shown);
    free(term);
}

void
lg_term_size(struct lg_term *term, int *rows, int *columns)
{
    follow_size(term);
    *rows = LINES;
    *columns = COLS;
}

void
lg_term_redraw(struct lg_term *term)
{
    term->all = true;
}

void
lg_term_show(struct lg_term *term, const struct lg_canvas *canvas)
{
    bool all = !sync_shown(term, canvas) || term->all;
    if (all) {
        clearok(stdscr, TRUE);
        erase();
    }
    for (int row = 0; row < canvas->rows; row++) {
        size_t at = (size_t)row * (size_t)canvas->columns;
        size_t bytes = (size_t)canvas->columns * sizeof(*canvas->place);
        if (all || memcmp(term->shown.place + at, canvas->place + at, bytes) != 0) {
            draw_row(term, canvas, row);
            memcpy(term->shown.place + at, canvas->place + at, bytes);
        }
    }
    term->all = false;
    refresh();
}

enum lg_term_event
lg_term_wait(struct lg_term *term, int timeout_ms)
{
    struct pollfd fd = {.fd = term->in_fd, .events = POLLIN};
    if (state.noted != 0) {
        return LG_TERM_SIGNAL;
    }
    int n = poll(&fd, 1, timeout_ms);
    if (state.noted != 0) {
        return LG_TERM_SIGNAL;
    }
    if (n < 0) {
        /* A resize or ^Z: curses has it as a key, or will. */
        return errno == EINTR ? LG_TERM_INPUT : LG_TERM_GONE;
    }
    if (n > 0 && (fd.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0) {
        return LG_TERM_GONE;
    }
    if (n == 0) {
        return LG_TERM_NOTHING;
    }
    /* A terminal at its end is readable for ever and gives nothing: without
     * this count the program would spin. lg_term_key() resets it. */
    return ++term->empty_reads > EMPTY_READS ? LG_TERM_GONE : LG_TERM_INPUT;
}

int
lg_term_key(struct lg_term *term)
{
    if (state.continued) {
        state.continued = 0;
        term->all = true;
        return LG_KEY_RESIZE;           /* the window may have changed meanwhile */
    }
    wint_t code = 0;
    int kind = get_wch(&code);
    if (kind == ERR) {
        return LG_KEY_NOTHING;
    }
    term->empty_reads = 0;
    if (kind == KEY_CODE_YES) {
        return translate(term, code);
    }
    switch (code) {
    case '\r':
        return LG_KEY_ENTER;
    case '\b':
        return LG_KEY_BACKSPACE;
    case 0:
        return LG_KEY_OTHER;
    default:
        return (int)code;
    }
}

void
lg_term_click(const struct lg_term *term, int *row, int *column)
{
    *row = term->click_row;
    *column = term->click_column;
}

int
lg_term_signal(const struct lg_term *term)
{
    (void)term;
    return state.noted;
}

void
lg_term_die(int signo)
{
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, signo);
    signal(signo, SIG_DFL);
    sigprocmask(SIG_UNBLOCK, &one, NULL);
    raise(signo);
}

void
lg_term_bell(struct lg_term *term)
{
    (void)term;
    beep();
}

void
lg_term_mouse(struct lg_term *term, bool on)
{
    (void)term;
    mousemask(on ? BUTTON1_CLICKED | BUTTON1_PRESSED | BUTTON4_PRESSED | BUTTON5_PRESSED : 0, NULL);
    mouseinterval(0);                   /* no waiting for a double click */
}

void
lg_term_suspend(struct lg_term *term)
{
    term->all = true;
    raise(SIGTSTP);                     /* handled by curses: leaves, stops, comes back */
}

/* ---- taking it --------------------------------------------------------- */

/* The controlling terminal, whatever standard input is. Without one (a
 * program alone in its session) a terminal on 0 or 1 will do. */
static int
open_keyboard(void)
{
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    for (int other = 0; fd < 0 && other <= 1; other++) {
        if (isatty(other)) {
            fd = fcntl(other, F_DUPFD_CLOEXEC, 3);
        }
    }
    return fd;
}

/* newterm() would only say NULL; this knows the reason. */
static int
check_terminfo(int out, char *why, size_t size)
{
    const char *type = getenv("TERM");
    int found = 0;
    if (type == NULL || type[0] == '\0') {
        snprintf(why, size, "TERM is not set\nSet TERM, for example TERM=xterm, or use --once.");
        return -ENOENT;
    }
    if (setupterm(type, out, &found) != OK && getenv("TERMINFO_DIRS") == NULL) {
        /* A curses that was built elsewhere may not know where this system
         * keeps its descriptions. */
        setenv("TERMINFO_DIRS", "/etc/terminfo:/lib/terminfo:/usr/share/terminfo", 1);
        setupterm(type, out, &found);
    }
    if (found != 1) {
        snprintf(why, size,
                 "unknown terminal type '%s'\nSet TERM, for example TERM=xterm, or use --once.",
                 type);
        return -ENOENT;
    }
    return 0;
}

/* Attributes off, colours off, keypad off, cursor on, old screen back. Also
 * the words for a fault: the handler may not format. */
static void
build_restore(const char *program)
{
    state.restore_length = 0;
    append_capability("sgr0");
    append_capability("op");
    append_capability("rmkx");
    append_capability("cnorm");
    append_capability("rmcup");
    snprintf(state.fault, sizeof(state.fault), "%s: internal error (signal ", program);
}

/* Without the padding "$<5>": it is a wait for hardware terminals. */
static void
append_capability(const char *name)
{
    const char *text = tigetstr((char *)(uintptr_t)name);
    if (text == NULL || text == (const char *)-1) {
        return;
    }
    while (*text != '\0' && state.restore_length < RESTORE_MAX) {
        const char *end = text[0] == '$' && text[1] == '<' ? strchr(text, '>') : NULL;
        if (end != NULL) {
            text = end + 1;
            continue;
        }
        state.restore[state.restore_length++] = *text++;
    }
}

static void
set_modes(struct lg_term *term, bool mouse)
{
    cbreak();
    noecho();
    nonl();
    intrflush(stdscr, FALSE);
    keypad(stdscr, TRUE);
    nodelay(stdscr, TRUE);
    leaveok(stdscr, TRUE);
    set_escdelay(ESCAPE_MS);
    curs_set(0);
    if (mouse) {
        lg_term_mouse(term, true);
    }
}

/* Without colour bold, dim and reverse tell the same things apart. */
static void
choose_attributes(struct lg_term *term)
{
    static const struct {
        attr_t plain, colored;
        short color;                    /* -1 = the terminal's own */
    } looks[LG_STYLE_COUNT] = {
        [LG_STYLE_NORMAL] = {0, 0, -1},
        [LG_STYLE_BOLD] = {A_BOLD, A_BOLD, -1},
        [LG_STYLE_DIM] = {A_DIM, A_DIM, -1},
        [LG_STYLE_TITLE] = {A_BOLD, A_BOLD, COLOR_CYAN},
        [LG_STYLE_HEADING] = {A_BOLD | A_UNDERLINE, A_UNDERLINE, COLOR_CYAN},
        [LG_STYLE_SELECTED] = {A_REVERSE, A_REVERSE, -1},
        [LG_STYLE_KEY] = {A_BOLD, A_BOLD, COLOR_CYAN},
        [LG_STYLE_BAR] = {0, 0, COLOR_GREEN},
        [LG_STYLE_GOOD] = {0, 0, COLOR_GREEN},
        [LG_STYLE_WARNING] = {A_BOLD, A_BOLD, COLOR_YELLOW},
        [LG_STYLE_ALARM] = {A_REVERSE | A_BOLD, A_REVERSE | A_BOLD, COLOR_RED},
        [LG_STYLE_RED] = {A_BOLD, A_BOLD, COLOR_RED},
    };
    bool color = term->color && has_colors() && start_color() == OK;
    /* Also without colours of ours: the terminal's own background stays. */
    bool own = color && use_default_colors() == OK;
    for (int i = 0; i < LG_STYLE_COUNT; i++) {
        term->attribute[i] = color ? looks[i].colored : looks[i].plain;
        term->pair[i] = 0;
        if (color && looks[i].color >= 0) {
            term->pair[i] = (short)(looks[i].color + 1);
            init_pair(term->pair[i], looks[i].color, own ? -1 : COLOR_BLACK);
        }
    }
}

/* ---- signals ----------------------------------------------------------- */

static void
catch_signals(void)
{
    static char stack[32768];           /* a fault may be "the stack is full" */
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof(stack)};
    sigaltstack(&alternate, NULL);
    state.noted = 0;
    struct sigaction action = {.sa_handler = on_asked};
    for (size_t i = 0; i < COUNT(asked); i++) {
        struct sigaction before;
        sigaction(asked[i], NULL, &before);
        if (before.sa_handler != SIG_IGN) {     /* nohup stays nohup */
            sigaction(asked[i], &action, NULL);
        }
    }
    action.sa_handler = on_continued;
    sigaction(SIGCONT, &action, NULL);
    action = (struct sigaction){.sa_sigaction = on_fatal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    for (size_t i = 0; i < COUNT(enders); i++) {
        sigaction(enders[i], &action, NULL);
    }
    action.sa_flags |= SA_NODEFER;      /* the segment's SIGBUS guard jumps out */
    for (size_t i = 0; i < COUNT(faults); i++) {
        bool bus = faults[i].signo == SIGBUS;
        sigaction(faults[i].signo, &action, bus ? &state.bus_before : NULL);
    }
}

static void
release_signals(void)
{
    for (size_t i = 0; i < COUNT(asked); i++) {
        struct sigaction now;
        sigaction(asked[i], NULL, &now);
        if (now.sa_handler != SIG_IGN) {
            signal(asked[i], SIG_DFL);
        }
    }
    signal(SIGCONT, SIG_DFL);
    for (size_t i = 0; i < COUNT(enders); i++) {
        signal(enders[i], SIG_DFL);
    }
    for (size_t i = 0; i < COUNT(faults); i++) {
        if (faults[i].signo == SIGBUS) {
            sigaction(SIGBUS, &state.bus_before, NULL);
        }
        else {
            signal(faults[i].signo, SIG_DFL);
        }
    }
}

static void
on_asked(int signo)
{
    if (state.noted != 0) {             /* the first one did not get us out */
        restore_in_handler();
        lg_term_die(signo);
    }
    state.noted = signo;
}

static void
on_continued(int signo)
{
    (void)signo;
    state.continued = 1;
}

/* Async-signal-safe: write(), tcsetattr(), pread(), sigaction(), raise(). */
static void
on_fatal(int signo, siginfo_t *info, void *context)
{
    if (signo == SIGBUS && info->si_code > 0 && (state.bus_before.sa_flags & SA_SIGINFO) != 0) {
        /* A cut segment: its guard jumps away and does not come back here.
         * (One that kill() sent is not asked about: the guard would die by it.) */
        state.bus_before.sa_sigaction(signo, info, context);
    }
    restore_in_handler();
    int err = state.real_stderr >= 0 ? state.real_stderr : STDERR_FILENO;
    copy_kept(err);
    for (size_t i = 0; i < COUNT(faults); i++) {
        static const char end[] = ") in " LG_VERSION
                                  "\nThe worker is not affected. "
                                  "Please report this with the lines above.\n";
        if (faults[i].signo == signo) {
            ssize_t n = write(err, state.fault, strlen(state.fault));
            n += write(err, faults[i].text, strlen(faults[i].text));
            n += write(err, end, sizeof(end) - 1);
            (void)n;
        }
    }
    lg_term_die(signo);
}

static void
restore_in_handler(void)
{
    if (state.taken) {
        state.taken = 0;
        ssize_t n = write(state.out, state.restore, state.restore_length);
        (void)n;
        tcsetattr(state.tty, TCSANOW, &state.modes);
    }
}

/* ---- stderr ------------------------------------------------------------ */

/* A message of a library would tear the picture. A file or pipe gets its
 * messages at once, as the user asked. */
static void
keep_stderr(void)
{
    if (!isatty(STDERR_FILENO)) {
        return;
    }
    int kept = memfd_create("loopguard-top.stderr", MFD_CLOEXEC);
    int real = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    if (kept < 0 || real < 0 || dup2(kept, STDERR_FILENO) < 0) {
        if (kept >= 0) {
            close(kept);
        }
        if (real >= 0) {
            close(real);
        }
        return;
    }
    state.kept_stderr = kept;
    state.real_stderr = real;
}

static void
give_stderr_back(void)
{
    if (state.kept_stderr < 0) {
        return;
    }
    fflush(stderr);
    dup2(state.real_stderr, STDERR_FILENO);
    copy_kept(STDERR_FILENO);
    close(state.kept_stderr);
    close(state.real_stderr);
    state.kept_stderr = -1;
    state.real_stderr = -1;
}

static void
copy_kept(int to)
{
    char bytes[512];
    ssize_t n;
    off_t at = 0;
    while (state.kept_stderr >= 0 && (n = pread(state.kept_stderr, bytes, sizeof(bytes), at)) > 0) {
        at += n;
        if (write(to, bytes, (size_t)n) < 0) {
            return;
        }
    }
}

/* ---- drawing ----------------------------------------------------------- */

/* Makes `shown` as large as the canvas; false when it was not. */
static bool
sync_shown(struct lg_term *term, const struct lg_canvas *canvas)
{
    if (term->shown.rows == canvas->rows && term->shown.columns == canvas->columns) {
        return true;
    }
    int err = lg_canvas_size(&term->shown, canvas->rows, canvas->columns, canvas->ascii);
    assert(err == 0 && "no memory for a second screen");
    (void)err;
    return false;
}

/* Cells one by one: curses compares them with what stands there, so only
 * changes go out. The last cell of the last line would scroll on a terminal
 * without "xenl" and insert; curses takes care. */
static void
draw_row(struct lg_term *term, const struct lg_canvas *canvas, int row)
{
    const struct lg_place *line = canvas->place + (size_t)row * (size_t)canvas->columns;
    for (int column = 0; column < canvas->columns; column++) {
        const struct lg_place *place = &line[column];
        wchar_t text[2] = {(wchar_t)place->code, L'\0'};
        cchar_t cell;
        if (place->code == 0) {
            continue;                   /* the wide character before covers it */
        }
        assert(place->style < LG_STYLE_COUNT);
        setcchar(&cell, text, term->attribute[place->style], term->pair[place->style], NULL);
        mvadd_wch(row, column, &cell);
    }
}

/* ---- keys -------------------------------------------------------------- */

static int
translate(struct lg_term *term, wint_t code)
{
    static const struct {
        int curses, ours;
    } keys[] = {
        {KEY_UP, LG_KEY_UP},
        {KEY_DOWN, LG_KEY_DOWN},
        {KEY_LEFT, LG_KEY_LEFT},
        {KEY_RIGHT, LG_KEY_RIGHT},
        {KEY_PPAGE, LG_KEY_PAGE_UP},
        {KEY_NPAGE, LG_KEY_PAGE_DOWN},
        {KEY_HOME, LG_KEY_HOME},
        {KEY_END, LG_KEY_END},
        {KEY_BTAB, LG_KEY_BACK_TAB},
        {KEY_ENTER, LG_KEY_ENTER},
        {KEY_BACKSPACE, LG_KEY_BACKSPACE},
        {KEY_DC, LG_KEY_DELETE},
        {KEY_FIND, LG_KEY_HOME},
        {KEY_SELECT, LG_KEY_END},
    };
    if (code == KEY_RESIZE) {
        term->all = true;
        return LG_KEY_RESIZE;
    }
    if (code == KEY_MOUSE) {
        return mouse_key(term);
    }
    if (code >= (wint_t)KEY_F(1) && code <= (wint_t)KEY_F(10)) {
        return LG_KEY_F1 + (int)(code - (wint_t)KEY_F(1));
    }
    for (size_t i = 0; i < COUNT(keys); i++) {
        if (code == (wint_t)keys[i].curses) {
            return keys[i].ours;
        }
    }
    return LG_KEY_OTHER;
}

static int
mouse_key(struct lg_term *term)
{
    MEVENT event;
    if (getmouse(&event) != OK) {
        return LG_KEY_OTHER;
    }
    term->click_row = event.y;
    term->click_column = event.x;
    if ((event.bstate & BUTTON4_PRESSED) != 0) {
        return LG_KEY_WHEEL_UP;
    }
    return (event.bstate & BUTTON5_PRESSED) != 0 ? LG_KEY_WHEEL_DOWN : LG_KEY_CLICK;
}

/* SIGWINCH goes to the foreground only: after ^Z and fg nobody told us. */
static void
follow_size(struct lg_term *term)
{
    struct winsize size;
    if (ioctl(term->in_fd, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0 &&
        (size.ws_row != LINES || size.ws_col != COLS)) {
        resizeterm(size.ws_row, size.ws_col);
    }
}
