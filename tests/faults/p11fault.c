/* A PKCS#11 v2.40 module that forwards to a real one and misbehaves on request. For tests only.
 *
 * The one thing to know: what it counts lives in a file that all processes share, so "the next three C_Sign anywhere
 * fail" means three, whichever thread of whichever host makes them.
 *
 * ENVIRONMENT
 *
 *     P11FAULT_REAL     path of the real library
 *     P11FAULT_CONTROL  the control file; it may be replaced (by a rename) at any time and holds from the next call on.
 *                       The shared counts are in a file of the same name with ".state" at its end.
 *
 * CONTROL FILE: one directive a line, words separated by blanks, "#" begins a comment. A file with a line that is not
 * understood makes every call fail with 0x8000FA17 and says so on standard error.
 *
 * Rules: FUNCTION VERB [ARGUMENTS] [CONDITIONS], for one function or "*" for any. A call goes through them in order.
 *
 *     return CODE              fail with this CKR_*, by name or number
 *     delay MS [jitter MS]     take MS milliseconds longer, and up to the jitter more
 *     hang                     do not go on until this rule has left the control file
 *     crash [abort|segv|kill]  end the process by a signal
 *     exit [STATUS]            end the process with _exit
 *     print                    write a line to standard output
 *     logout                   log the whole process out first
 *     unnamed                  C_GetTokenInfo: neither label nor serial number, as SoftHSM answers now and then while
 *                              another process logs in
 *     poison [CODE]            C_Sign: fail (CKR_DEVICE_ERROR) without having signed; from then on the session answers
 *                              CKR_OPERATION_ACTIVE to everything but closing, looking at it, login and logout
 *     corrupt                  C_Sign: change one bit of the signature
 *     truncate [BYTES]         C_Sign: claim this many bytes (63)
 *     zero                     C_Sign: a signature of zeros
 *     high_s                   C_Sign: the same signature with s in the upper half of the curve's order
 *     other_key                C_Sign: a valid signature of the same data by a key made for the purpose
 *
 *     when=before|after        before forwarding (the default), or after it: "return" then claims that it failed
 *     after=N                  not before N calls of the function have come by
 *     every=N                  then only at every Nth
 *     p=P                      then with this probability; the dice are thrown by "seed", the rule and its count
 *     count=N                  then N times and no more
 *     id=N                     the counts of this rule, its line number otherwise; who replaces a file gives new ids to
 *                              rules that begin anew and keeps the ids of those that go on
 *
 * About everything:
 *
 *     seed N                   for p= and jitter
 *     sessions N               sessions that one application may have open, then CKR_SESSION_COUNT
 *     device-sessions N        sessions that all applications together may have open
 *     idle MS                  sessions unused for so long are closed
 *     gone                     the token was pulled out: its slot is empty, sessions answer CKR_DEVICE_REMOVED; once it
 *                              is back (and this process was there to see it go) they are closed and logged out
 *     replugged N              the token was out and in again since the last N
 *     slot-offset N            all slot ids are N higher than they are
 *     cant-lock                C_Initialize with CKF_OS_LOCKING_OK answers CKR_CANT_LOCK
 *     hidden-until-finalize    C_GetTokenInfo fails until C_Finalize was called once
 *     no-ecdsa                 CKM_ECDSA is not in the list of mechanisms
 *     recall                   a digest that a key has signed before gets the same signature again and the real module is
 *                              not asked: a device with a processor of its own, which costs this machine no time
 *     token-flags SET CLEAR    set and clear these CKF_* in CK_TOKEN_INFO (0 for none)
 *     token-label TEXT         other words in CK_TOKEN_INFO; the text is the rest of the line
 *     token-serial TEXT
 *     token-max-sessions N     ulMaxSessionCount in CK_TOKEN_INFO
 *     quirk NAME               behave like a vendor's module
 *
 * Quirks. None was seen on hardware: they are what documentation, sources and bug reports of the vendors say, and where
 * those do not name the return code it is our choice.
 *
 *     raw-ec-point             CKA_EC_POINT is 65 bytes, 04 x y, instead of DER; searching for DER finds nothing
 *     bare-ec-point            CKA_EC_POINT is 64 bytes, x y
 *     rw-sessions-only         read-only sessions are refused with CKR_SESSION_READ_ONLY (AWS CloudHSM)
 *     handles-per-session      object handles are good in the session that found them only (AWS CloudHSM)
 *     pin-cu-user              the PIN is user:password (AWS CloudHSM)
 *     pin-auth-key             the PIN is four hex digits and the password (YubiHSM)
 *     cka-id-2                 CKA_ID is cut to 2 bytes without a word (yubihsm_pkcs11 before 2.4)
 *     cka-id-2-refused         a longer CKA_ID is CKR_ATTRIBUTE_VALUE_INVALID (yubihsm_pkcs11 from 2.4 on keeps longer
 *                              ones in objects of their own, and fails where the authentication key may not make them)
 *     sessions-16              device-sessions 16 (YubiHSM)
 *     point-on-private-key     the private key object carries CKA_EC_POINT too (AWS CloudHSM)
 *     no-point-on-private-key  it does not, whatever the real module says
 *     no-point-on-public-key   the public key object does not carry it
 *     logout-drops-sessions    C_Logout closes the application's sessions (nShield drops the logical token)
 *     gone-until-initialize    a token that was gone is back only after C_Finalize and C_Initialize (a Luna HA group
 *                              that has lost all its members)
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- What is needed of PKCS#11: names, numbers and layouts of pkcs11t.h; an argument is a word or a pointer ---- */

typedef unsigned long word;
typedef struct { word type; void *value; word size; } attribute;
typedef struct { word mechanism; void *parameter; word size; } mechanism;
typedef struct {
    unsigned char label[32], manufacturer[32], model[16], serial[16];
    word flags, max_sessions; /* and more */
} token_info;
typedef struct { unsigned char description[64], manufacturer[32]; word flags; } slot_info;
typedef struct { word slot, state, flags, device_error; } session_info;
typedef struct { void *mutexes[4]; word flags; void *reserved; } initialize_args;

enum { FIRST_SLOT = 1, FIRST_SESSION = 2, ARGUMENTS = 8 };

/* Every function of CK_FUNCTION_LIST in its order: what its first argument is, which arguments are object handles, and
 * which are pointers to where it puts new ones. (C_FindObjects puts several: tag() knows.) */
#define FUNCTIONS(X) \
    X(Initialize, 0, 0, 0, 0, 0) X(Finalize, 0, 0, 0, 0, 0) X(GetInfo, 0, 0, 0, 0, 0) \
    X(GetFunctionList, 0, 0, 0, 0, 0) X(GetSlotList, 0, 0, 0, 0, 0) X(GetSlotInfo, FIRST_SLOT, 0, 0, 0, 0) \
    X(GetTokenInfo, FIRST_SLOT, 0, 0, 0, 0) X(GetMechanismList, FIRST_SLOT, 0, 0, 0, 0) \
    X(GetMechanismInfo, FIRST_SLOT, 0, 0, 0, 0) X(InitToken, FIRST_SLOT, 0, 0, 0, 0) \
    X(InitPIN, FIRST_SESSION, 0, 0, 0, 0) X(SetPIN, FIRST_SESSION, 0, 0, 0, 0) \
    X(OpenSession, FIRST_SLOT, 0, 0, 0, 0) X(CloseSession, FIRST_SESSION, 0, 0, 0, 0) \
    X(CloseAllSessions, FIRST_SLOT, 0, 0, 0, 0) X(GetSessionInfo, FIRST_SESSION, 0, 0, 0, 0) \
    X(GetOperationState, FIRST_SESSION, 0, 0, 0, 0) X(SetOperationState, FIRST_SESSION, 3, 4, 0, 0) \
    X(Login, FIRST_SESSION, 0, 0, 0, 0) X(Logout, FIRST_SESSION, 0, 0, 0, 0) \
    X(CreateObject, FIRST_SESSION, 0, 0, 3, 0) X(CopyObject, FIRST_SESSION, 1, 0, 4, 0) \
    X(DestroyObject, FIRST_SESSION, 1, 0, 0, 0) X(GetObjectSize, FIRST_SESSION, 1, 0, 0, 0) \
    X(GetAttributeValue, FIRST_SESSION, 1, 0, 0, 0) X(SetAttributeValue, FIRST_SESSION, 1, 0, 0, 0) \
    X(FindObjectsInit, FIRST_SESSION, 0, 0, 0, 0) X(FindObjects, FIRST_SESSION, 0, 0, 0, 0) \
    X(FindObjectsFinal, FIRST_SESSION, 0, 0, 0, 0) X(EncryptInit, FIRST_SESSION, 2, 0, 0, 0) \
    X(Encrypt, FIRST_SESSION, 0, 0, 0, 0) X(EncryptUpdate, FIRST_SESSION, 0, 0, 0, 0) \
    X(EncryptFinal, FIRST_SESSION, 0, 0, 0, 0) X(DecryptInit, FIRST_SESSION, 2, 0, 0, 0) \
    X(Decrypt, FIRST_SESSION, 0, 0, 0, 0) X(DecryptUpdate, FIRST_SESSION, 0, 0, 0, 0) \
    X(DecryptFinal, FIRST_SESSION, 0, 0, 0, 0) X(DigestInit, FIRST_SESSION, 0, 0, 0, 0) \
    X(Digest, FIRST_SESSION, 0, 0, 0, 0) X(DigestUpdate, FIRST_SESSION, 0, 0, 0, 0) \
    X(DigestKey, FIRST_SESSION, 1, 0, 0, 0) X(DigestFinal, FIRST_SESSION, 0, 0, 0, 0) \
    X(SignInit, FIRST_SESSION, 2, 0, 0, 0) X(Sign, FIRST_SESSION, 0, 0, 0, 0) \
    X(SignUpdate, FIRST_SESSION, 0, 0, 0, 0) X(SignFinal, FIRST_SESSION, 0, 0, 0, 0) \
    X(SignRecoverInit, FIRST_SESSION, 2, 0, 0, 0) X(SignRecover, FIRST_SESSION, 0, 0, 0, 0) \
    X(VerifyInit, FIRST_SESSION, 2, 0, 0, 0) X(Verify, FIRST_SESSION, 0, 0, 0, 0) \
    X(VerifyUpdate, FIRST_SESSION, 0, 0, 0, 0) X(VerifyFinal, FIRST_SESSION, 0, 0, 0, 0) \
    X(VerifyRecoverInit, FIRST_SESSION, 2, 0, 0, 0) X(VerifyRecover, FIRST_SESSION, 0, 0, 0, 0) \
    X(DigestEncryptUpdate, FIRST_SESSION, 0, 0, 0, 0) X(DecryptDigestUpdate, FIRST_SESSION, 0, 0, 0, 0) \
    X(SignEncryptUpdate, FIRST_SESSION, 0, 0, 0, 0) X(DecryptVerifyUpdate, FIRST_SESSION, 0, 0, 0, 0) \
    X(GenerateKey, FIRST_SESSION, 0, 0, 4, 0) X(GenerateKeyPair, FIRST_SESSION, 0, 0, 6, 7) \
    X(WrapKey, FIRST_SESSION, 2, 3, 0, 0) X(UnwrapKey, FIRST_SESSION, 2, 0, 7, 0) \
    X(DeriveKey, FIRST_SESSION, 2, 0, 5, 0) X(SeedRandom, FIRST_SESSION, 0, 0, 0, 0) \
    X(GenerateRandom, FIRST_SESSION, 0, 0, 0, 0) X(GetFunctionStatus, FIRST_SESSION, 0, 0, 0, 0) \
    X(CancelFunction, FIRST_SESSION, 0, 0, 0, 0) X(WaitForSlotEvent, 0, 0, 0, 0, 0)

enum function {
#define X(name, ...) C_##name,
    FUNCTIONS(X)
#undef X
    FUNCTION_COUNT,
    ANY_FUNCTION
};

static const struct { const char *name; int first, handles[2], made[2]; } FUNCTION[FUNCTION_COUNT] = {
#define X(name, first, in1, in2, out1, out2) {"C_" #name, first, {in1, in2}, {out1, out2}},
    FUNCTIONS(X)
#undef X
};

typedef struct { unsigned char version[2]; void *functions[FUNCTION_COUNT]; } function_list;

#define RETURN_CODES(X) \
    X(OK, 0x0) X(CANCEL, 0x1) X(HOST_MEMORY, 0x2) X(SLOT_ID_INVALID, 0x3) X(GENERAL_ERROR, 0x5) \
    X(FUNCTION_FAILED, 0x6) X(ARGUMENTS_BAD, 0x7) X(NO_EVENT, 0x8) X(NEED_TO_CREATE_THREADS, 0x9) X(CANT_LOCK, 0xA) \
    X(ATTRIBUTE_READ_ONLY, 0x10) X(ATTRIBUTE_SENSITIVE, 0x11) X(ATTRIBUTE_TYPE_INVALID, 0x12) \
    X(ATTRIBUTE_VALUE_INVALID, 0x13) X(ACTION_PROHIBITED, 0x1B) X(DATA_INVALID, 0x20) X(DATA_LEN_RANGE, 0x21) \
    X(DEVICE_ERROR, 0x30) X(DEVICE_MEMORY, 0x31) X(DEVICE_REMOVED, 0x32) X(FUNCTION_CANCELED, 0x50) \
    X(FUNCTION_NOT_PARALLEL, 0x51) X(FUNCTION_NOT_SUPPORTED, 0x54) X(KEY_HANDLE_INVALID, 0x60) \
    X(KEY_SIZE_RANGE, 0x62) X(KEY_TYPE_INCONSISTENT, 0x63) X(KEY_NOT_NEEDED, 0x64) X(KEY_CHANGED, 0x65) \
    X(KEY_NEEDED, 0x66) X(KEY_INDIGESTIBLE, 0x67) X(KEY_FUNCTION_NOT_PERMITTED, 0x68) X(KEY_NOT_WRAPPABLE, 0x69) \
    X(KEY_UNEXTRACTABLE, 0x6A) X(MECHANISM_INVALID, 0x70) X(MECHANISM_PARAM_INVALID, 0x71) \
    X(OBJECT_HANDLE_INVALID, 0x82) X(OPERATION_ACTIVE, 0x90) X(OPERATION_NOT_INITIALIZED, 0x91) \
    X(PIN_INCORRECT, 0xA0) X(PIN_INVALID, 0xA1) X(PIN_LEN_RANGE, 0xA2) X(PIN_EXPIRED, 0xA3) X(PIN_LOCKED, 0xA4) \
    X(SESSION_CLOSED, 0xB0) X(SESSION_COUNT, 0xB1) X(SESSION_HANDLE_INVALID, 0xB3) \
    X(SESSION_PARALLEL_NOT_SUPPORTED, 0xB4) X(SESSION_READ_ONLY, 0xB5) X(SESSION_EXISTS, 0xB6) \
    X(SESSION_READ_ONLY_EXISTS, 0xB7) X(SESSION_READ_WRITE_SO_EXISTS, 0xB8) X(SIGNATURE_INVALID, 0xC0) \
    X(SIGNATURE_LEN_RANGE, 0xC1) X(TEMPLATE_INCOMPLETE, 0xD0) X(TEMPLATE_INCONSISTENT, 0xD1) \
    X(TOKEN_NOT_PRESENT, 0xE0) X(TOKEN_NOT_RECOGNIZED, 0xE1) X(TOKEN_WRITE_PROTECTED, 0xE2) \
    X(USER_ALREADY_LOGGED_IN, 0x100) X(USER_NOT_LOGGED_IN, 0x101) X(USER_PIN_NOT_INITIALIZED, 0x102) \
    X(USER_TYPE_INVALID, 0x103) X(USER_ANOTHER_ALREADY_LOGGED_IN, 0x104) X(USER_TOO_MANY_TYPES, 0x105) \
    X(RANDOM_NO_RNG, 0x121) X(DOMAIN_PARAMS_INVALID, 0x130) X(CURVE_NOT_SUPPORTED, 0x140) X(BUFFER_TOO_SMALL, 0x150) \
    X(CRYPTOKI_NOT_INITIALIZED, 0x190) X(CRYPTOKI_ALREADY_INITIALIZED, 0x191) X(MUTEX_BAD, 0x1A0) \
    X(MUTEX_NOT_LOCKED, 0x1A1) X(NEW_PIN_MODE, 0x1B0) X(NEXT_OTP, 0x1B1) X(EXCEEDED_MAX_ITERATIONS, 0x1B5) \
    X(FIPS_SELF_TEST_FAILED, 0x1B6) X(LIBRARY_LOAD_FAILED, 0x1B7) X(PIN_TOO_WEAK, 0x1B8) \
    X(PUBLIC_KEY_INVALID, 0x1B9) X(FUNCTION_REJECTED, 0x200) X(TOKEN_RESOURCE_EXCEEDED, 0x201) \
    X(OPERATION_CANCEL_FAILED, 0x202) X(KEY_EXHAUSTED, 0x203)

enum {
#define X(name, code) CKR_##name = code,
    RETURN_CODES(X)
#undef X
};

static const struct { const char *name; word code; } RETURN_CODE[] = {
#define X(name, code) {"CKR_" #name, code},
    RETURN_CODES(X)
#undef X
};

static const word CKR_CONTROL_NOT_UNDERSTOOD = 0x8000FA17;

enum { CKA_CLASS = 0x0, CKA_TOKEN = 0x1, CKA_PRIVATE = 0x2, CKA_ID = 0x102, CKA_SIGN = 0x108, CKA_EC_PARAMS = 0x180,
       CKA_EC_POINT = 0x181 };
enum { CKO_PUBLIC_KEY = 2, CKO_PRIVATE_KEY = 3 };
enum { CKM_EC_KEY_PAIR_GEN = 0x1040, CKM_ECDSA = 0x1041, CKM_ECDSA_SHA1 = 0x1042 };
enum { CKF_TOKEN_PRESENT = 1, CKF_OS_LOCKING_OK = 2, CKF_RW_SESSION = 2, CKF_SERIAL_SESSION = 4 };
static const word UNAVAILABLE = (word)-1;

/* ---- Counts that all processes share: a file that begins as zeros and needs no other beginning ---- */

enum { RULE_COUNTERS = 4096, APPLICATIONS = 256, COUNTING_LOCK = APPLICATIONS };

typedef struct {
    _Atomic uint64_t calls[FUNCTION_COUNT];
    _Atomic uint64_t reused; /* C_SignInit and C_Sign on a session where one of them had failed before */
    struct { _Atomic uint64_t seen, fired; } rules[RULE_COUNTERS];
    /* An application is alive while it holds the lock on the byte of its number in the file: the kernel lets go of it
     * however the process ends, so what a killed one had open does not count any more. */
    struct { _Atomic uint64_t pid, sessions, hanging; } applications[APPLICATIONS];
} shared_counts;

static shared_counts *shared;
static int shared_file;
static int application;
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER;

static int lock_byte(int command, int type, off_t byte) {
    struct flock lock = {.l_type = (short)type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    if (fcntl(shared_file, command, &lock)) return -1;
    return command == F_OFD_GETLK && lock.l_type == F_UNLCK ? 0 : 1;
}

static bool open_shared(const char *control_path) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s.state", control_path);
    shared_file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (shared_file < 0 || ftruncate(shared_file, sizeof *shared)) return false;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, shared_file, 0);
    if (shared == MAP_FAILED) return false;
    for (application = 0; application < APPLICATIONS; application++)
        if (lock_byte(F_OFD_SETLK, F_WRLCK, application) == 1) {
            atomic_store(&shared->applications[application].sessions, 0);
            atomic_store(&shared->applications[application].hanging, 0);
            atomic_store(&shared->applications[application].pid, (uint64_t)getpid());
            return true;
        }
    return false;
}

static uint64_t sessions_of_all(void) {
    uint64_t sum = 0;
    for (int i = 0; i < APPLICATIONS; i++) {
        uint64_t sessions = atomic_load(&shared->applications[i].sessions);
        if (sessions && (i == application || lock_byte(F_OFD_GETLK, F_WRLCK, i) == 1)) sum += sessions;
    }
    return sum;
}

/* Take one session from both allowances (0 is no limit), or none. */
static bool reserve_session(uint64_t own_limit, uint64_t device_limit) {
    bool granted;
    pthread_mutex_lock(&counting); /* the lock on the file keeps out other processes, not other threads */
    while (lock_byte(F_OFD_SETLKW, F_WRLCK, COUNTING_LOCK) < 0 && errno == EINTR) {}
    granted = (!own_limit || atomic_load(&shared->applications[application].sessions) < own_limit) &&
              (!device_limit || sessions_of_all() < device_limit);
    if (granted) atomic_fetch_add(&shared->applications[application].sessions, 1);
    lock_byte(F_OFD_SETLK, F_UNLCK, COUNTING_LOCK);
    pthread_mutex_unlock(&counting);
    return granted;
}

static void release_session(void) { atomic_fetch_sub(&shared->applications[application].sessions, 1); }

/* ---- The control file ---- */

/* From POISON on they are about C_Sign alone, from CORRUPT on about the signature that it has made. */
enum verb { RETURN, DELAY, HANG, CRASH, EXIT, PRINT, LOGOUT, UNNAMED, POISON,
            CORRUPT, TRUNCATE, ZERO, HIGH_S, OTHER_KEY, VERBS };
static const char *const VERB[VERBS] = {"return", "delay", "hang", "crash", "exit", "print", "logout", "unnamed",
                                        "poison", "corrupt", "truncate", "zero", "high_s", "other_key"};

enum quirk { RAW_EC_POINT, BARE_EC_POINT, RW_SESSIONS_ONLY, HANDLES_PER_SESSION, PIN_CU_USER, PIN_AUTH_KEY, CKA_ID_2,
             CKA_ID_2_REFUSED, SESSIONS_16, POINT_ON_PRIVATE_KEY, NO_POINT_ON_PRIVATE_KEY, NO_POINT_ON_PUBLIC_KEY,
             LOGOUT_DROPS_SESSIONS, GONE_UNTIL_INITIALIZE, QUIRKS };
static const char *const QUIRK[QUIRKS] = {
    "raw-ec-point", "bare-ec-point", "rw-sessions-only", "handles-per-session", "pin-cu-user", "pin-auth-key",
    "cka-id-2", "cka-id-2-refused", "sessions-16", "point-on-private-key", "no-point-on-private-key",
    "no-point-on-public-key", "logout-drops-sessions", "gone-until-initialize"};

typedef struct {
    int function, verb;
    bool when_after;
    word code;          /* of return and poison; signal, status or size of others */
    double ms, jitter;
    double probability; /* 2 for always */
    uint64_t after, every, count, id;
} rule;

enum { MAX_RULES = 256 };

typedef struct {
    int users;
    ino_t inode;
    struct timespec changed;
    off_t size;
    bool broken;
    rule rules[MAX_RULES];
    int rule_count;
    uint64_t seed, sessions, device_sessions, idle, replugged;
    bool gone, cant_lock, hidden, no_ecdsa, recall, quirks[QUIRKS];
    word slot_offset, set_flags, clear_flags, max_sessions;
    char label[33], serial[17];
} control;

static const char *control_path;
static control *current;
static pthread_mutex_t reading = PTHREAD_MUTEX_INITIALIZER;

static int position(const char *const *names, int count, const char *name) {
    int i = 0;
    while (i < count && strcmp(names[i], name)) i++;
    return i;
}

static bool number(const char *text, uint64_t *value) {
    char *end;
    if (!text || !*text) return false;
    *value = strtoull(text, &end, 0);
    return !*end;
}

static bool decimal(const char *text, double *value) {
    char *end;
    if (!text || !*text) return false;
    *value = strtod(text, &end);
    return !*end;
}

static bool return_code(const char *text, word *code) {
    uint64_t value;
    if (!text) return false;
    for (size_t i = 0; i < sizeof RETURN_CODE / sizeof *RETURN_CODE; i++)
        if (!strcmp(RETURN_CODE[i].name, text)) return *code = RETURN_CODE[i].code, true;
    if (!number(text, &value)) return false;
    *code = value;
    return true;
}

static bool condition(rule *r, const char *text) {
    const char *value = strchr(text, '=');
    if (!value) return false;
    size_t length = (size_t)(value++ - text);
#define IS(name) (length == strlen(name) && !strncmp(text, name, length))
    if (IS("when")) return r->when_after = !strcmp(value, "after"), r->when_after || !strcmp(value, "before");
    if (IS("after")) return number(value, &r->after);
    if (IS("every")) return number(value, &r->every) && r->every;
    if (IS("count")) return number(value, &r->count);
    if (IS("id")) return number(value, &r->id);
    if (IS("p")) return decimal(value, &r->probability);
#undef IS
    return false;
}

/* "FUNCTION VERB ..." with its words in words[]. */
static bool parse_rule(rule *r, char **words, int count) {
    int i = 2;
    uint64_t value;
    r->verb = position(VERB, VERBS, words[1]);
    r->function = strcmp(words[0], "*") ? 0 : ANY_FUNCTION;
    while (r->function < FUNCTION_COUNT && strcmp(FUNCTION[r->function].name, words[0])) r->function++;
    if (r->verb == VERBS || r->function == FUNCTION_COUNT) return false;
    if (r->verb >= POISON && r->function != C_Sign) return false;
    if (r->verb == UNNAMED && r->function != C_GetTokenInfo) return false;
    bool more = i < count && !strchr(words[i], '=');
    if (r->verb == RETURN && !(more && return_code(words[i++], &r->code))) return false;
    if (r->verb == POISON) {
        r->code = CKR_DEVICE_ERROR;
        if (more && !return_code(words[i++], &r->code)) return false;
    }
    if (r->verb == DELAY) {
        if (!more || !decimal(words[i++], &r->ms)) return false;
        if (i + 1 < count && !strcmp(words[i], "jitter")) {
            if (!decimal(words[i + 1], &r->jitter)) return false;
            i += 2;
        }
    }
    if (r->verb == CRASH) {
        r->code = SIGABRT;
        if (more) {
            const char *how = words[i++];
            if (strcmp(how, "abort") && strcmp(how, "segv") && strcmp(how, "kill")) return false;
            r->code = *how == 'a' ? SIGABRT : *how == 's' ? SIGSEGV : SIGKILL;
        }
    }
    if (r->verb == EXIT || r->verb == TRUNCATE) {
        value = r->verb == EXIT ? 0 : 63;
        if (more && !number(words[i++], &value)) return false;
        r->code = value;
    }
    while (i < count)
        if (!condition(r, words[i++])) return false;
    r->id %= RULE_COUNTERS;
    return true;
}

static bool parse_line(control *c, char *line, int line_number) {
    char copy[256], *words[16], *rest;
    uint64_t value = 0;
    int count = 0, which;
    line[strcspn(line, "#\n")] = 0;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *w = strtok_r(copy, " \t", &rest); w && count < 16; w = strtok_r(NULL, " \t", &rest)) words[count++] = w;
    if (!count) return true;
    const char *name = words[0];
    if (count >= 2 && (!strncmp(name, "C_", 2) || !strcmp(name, "*"))) {
        if (c->rule_count == MAX_RULES) return false;
        rule *r = &c->rules[c->rule_count++];
        *r = (rule){.probability = 2, .every = 1, .count = UINT64_MAX, .id = (uint64_t)line_number};
        return parse_rule(r, words, count);
    }
    if (count == 1) {
        if (!strcmp(name, "gone")) return c->gone = true;
        if (!strcmp(name, "cant-lock")) return c->cant_lock = true;
        if (!strcmp(name, "hidden-until-finalize")) return c->hidden = true;
        if (!strcmp(name, "no-ecdsa")) return c->no_ecdsa = true;
        if (!strcmp(name, "recall")) return c->recall = true;
        return false;
    }
    if (!strcmp(name, "quirk") && (which = position(QUIRK, QUIRKS, words[1])) < QUIRKS) return c->quirks[which] = true;
    const char *text = line + strspn(line, " \t") + strlen(name);
    text += strspn(text, " \t");
    if (!strcmp(name, "token-label")) return snprintf(c->label, sizeof c->label, "%s", text) < (int)sizeof c->label;
    if (!strcmp(name, "token-serial")) return snprintf(c->serial, sizeof c->serial, "%s", text) < (int)sizeof c->serial;
    if (!number(words[1], &value)) return false;
    if (!strcmp(name, "token-flags")) {
        c->set_flags = value;
        if (count < 3 || !number(words[2], &value)) return false;
        c->clear_flags = value;
        return true;
    }
    if (!strcmp(name, "seed")) return c->seed = value, true;
    if (!strcmp(name, "sessions")) return c->sessions = value, true;
    if (!strcmp(name, "device-sessions")) return c->device_sessions = value, true;
    if (!strcmp(name, "idle")) return c->idle = value, true;
    if (!strcmp(name, "replugged")) return c->replugged = value, true;
    if (!strcmp(name, "slot-offset")) return c->slot_offset = value, true;
    if (!strcmp(name, "token-max-sessions")) return c->max_sessions = value, true;
    return false;
}

static control *read_control(void) {
    control *c = calloc(1, sizeof *c);
    char line[256];
    struct stat status;
    FILE *file = fopen(control_path, "re");
    if (!c) abort();
    if (!file) return c; /* no file: it behaves */
    if (!fstat(fileno(file), &status)) {
        c->inode = status.st_ino;
        c->changed = status.st_mtim;
        c->size = status.st_size;
    }
    for (int i = 1; fgets(line, sizeof line, file); i++)
        if (!parse_line(c, line, i)) {
            fprintf(stderr, "p11fault: line %d of %s is not understood: %s\n", i, control_path, line);
            c->broken = true;
        }
    fclose(file);
    if (c->quirks[SESSIONS_16]) c->device_sessions = 16;
    return c;
}

static void let_go(control *c) { /* with "reading" held */
    if (!--c->users) free(c);
}

/* The control file as it is now, in use until release_control(). */
static control *acquire_control(void) {
    struct stat now = {0};
    if (stat(control_path, &now)) now = (struct stat){0};
    pthread_mutex_lock(&reading);
    if (!current || current->inode != now.st_ino || current->size != now.st_size ||
        current->changed.tv_sec != now.st_mtim.tv_sec || current->changed.tv_nsec != now.st_mtim.tv_nsec) {
        if (current) let_go(current);
        current = read_control();
        current->users = 1;
    }
    control *c = current;
    c->users++;
    pthread_mutex_unlock(&reading);
    return c;
}

static void release_control(control *c) {
    pthread_mutex_lock(&reading);
    let_go(c);
    pthread_mutex_unlock(&reading);
}

/* ---- The real module ---- */

typedef word (*any_function)(word, word, word, word, word, word, word, word);

static function_list *real_functions;
/* Calls into the real module share it; whatever takes sessions or the login away from under them has it alone. */
static pthread_rwlock_t forwarding = PTHREAD_RWLOCK_INITIALIZER;

static word call_real(enum function f, const word *v) {
    return ((any_function)real_functions->functions[f])(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]);
}

#define REAL(f, ...) call_real(f, (const word[ARGUMENTS]){__VA_ARGS__})
#define W(pointer) ((word)(pointer))

static word forward_as_is(enum function f, const word *v) {
    pthread_rwlock_rdlock(&forwarding);
    word rv = call_real(f, v);
    pthread_rwlock_unlock(&forwarding);
    return rv;
}

/* ---- The sessions of this process ---- */

typedef struct { word handle, slot; uint64_t serial, used_ms; bool poisoned, failed; word signs_with; } session;

static session *sessions;
static size_t session_count, session_room;
static uint64_t session_serials;
static _Atomic bool finalized_once;
static bool was_gone;
static uint64_t plug; /* the last number of "replugged" that was seen */
static pthread_mutex_t tracking = PTHREAD_MUTEX_INITIALIZER; /* all of the above */

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static session *tracked(word handle) { /* with "tracking" held */
    for (size_t i = 0; i < session_count; i++)
        if (sessions[i].handle == handle) return &sessions[i];
    return NULL;
}

static session look_up(word handle) {
    pthread_mutex_lock(&tracking);
    session *found = tracked(handle);
    session copy = found ? *found : (session){0};
    pthread_mutex_unlock(&tracking);
    return copy;
}

static void track(word handle, word slot) {
    pthread_mutex_lock(&tracking);
    if (session_count == session_room) {
        session_room = session_room ? 2 * session_room : 64;
        sessions = realloc(sessions, session_room * sizeof *sessions);
        if (!sessions) abort();
    }
    sessions[session_count++] = (session){handle, slot, ++session_serials, now_ms(), false, false, 0};
    pthread_mutex_unlock(&tracking);
}

static void forget(word handle) {
    pthread_mutex_lock(&tracking);
    session *found = tracked(handle);
    if (found) {
        *found = sessions[--session_count];
        release_session();
    }
    pthread_mutex_unlock(&tracking);
}

/* Forget the sessions of a slot, or all of them; "close" also closes them behind the application's back. */
static void drop_sessions(bool all, word slot, bool close) {
    pthread_rwlock_wrlock(&forwarding);
    pthread_mutex_lock(&tracking);
    for (size_t i = session_count; i-- > 0;)
        if (all || sessions[i].slot == slot) {
            if (close) REAL(C_CloseSession, sessions[i].handle);
            sessions[i] = sessions[--session_count];
            release_session();
        }
    pthread_mutex_unlock(&tracking);
    pthread_rwlock_unlock(&forwarding);
}

/* Whether the session is poisoned; and close it if it lay idle for too long. */
static bool is_poisoned(const control *c, word handle) {
    pthread_mutex_lock(&tracking);
    session *found = tracked(handle);
    uint64_t now = now_ms();
    bool poisoned = found && found->poisoned, expired = found && c->idle && now - found->used_ms >= c->idle;
    if (found) found->used_ms = now;
    pthread_mutex_unlock(&tracking);
    if (expired) {
        pthread_rwlock_wrlock(&forwarding);
        REAL(C_CloseSession, handle);
        pthread_rwlock_unlock(&forwarding);
        forget(handle);
    }
    return poisoned && !expired;
}

/* ---- Rules ---- */

static uint64_t dice(uint64_t seed, const rule *r, uint64_t seen) { /* splitmix64 */
    uint64_t z = seed + 0x9E3779B97F4A7C15u * (seen + 1) + 0xD1B54A32D192ED03u * (r->id + 1);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static double fraction(uint64_t bits) { return (double)(bits >> 11) * 0x1p-53; }

/* Count the call for the rule, and whether the rule acts on it. */
static bool fires(const control *c, const rule *r, uint64_t *seen) {
    *seen = atomic_fetch_add(&shared->rules[r->id].seen, 1) + 1;
    if (*seen <= r->after || (*seen - r->after) % r->every) return false;
    if (r->probability < 2 && fraction(dice(c->seed, r, *seen)) >= r->probability) return false;
    uint64_t fired = atomic_load(&shared->rules[r->id].fired);
    do {
        if (fired >= r->count) return false;
    } while (!atomic_compare_exchange_weak(&shared->rules[r->id].fired, &fired, fired + 1));
    return true;
}

static void sleep_ms(double ms) {
    struct timespec left = {(time_t)(ms / 1000), (long)((ms - 1000 * (double)(time_t)(ms / 1000)) * 1e6)};
    while (nanosleep(&left, &left) && errno == EINTR) {}
}

static void hang(const rule *r) {
    bool lifted = false;
    atomic_fetch_add(&shared->applications[application].hanging, 1);
    while (!lifted) {
        control *c = acquire_control();
        lifted = true;
        for (int i = 0; i < c->rule_count; i++) {
            const rule *now = &c->rules[i];
            if (now->verb == HANG && now->id == r->id && now->function == r->function) lifted = false;
        }
        release_control(c);
        if (!lifted) sleep_ms(2);
    }
    atomic_fetch_sub(&shared->applications[application].hanging, 1);
}

static void log_out(word handle) {
    pthread_rwlock_wrlock(&forwarding);
    REAL(C_Logout, handle);
    pthread_rwlock_unlock(&forwarding);
}

static void poison(word handle) {
    pthread_mutex_lock(&tracking);
    session *found = tracked(handle);
    if (found) found->poisoned = true;
    pthread_mutex_unlock(&tracking);
}

static void unname(token_info *info) {
    memset(info->label, ' ', sizeof info->label);
    memset(info->serial, ' ', sizeof info->serial);
}

static void spoil(const rule *r, const word *v);

/* Do what the rules say before (or after) forwarding; whether the call ends with *rv instead of going on. */
static bool apply_rules(const control *c, enum function f, const word *v, bool after, word *rv) {
    for (int i = 0; i < c->rule_count; i++) {
        const rule *r = &c->rules[i];
        uint64_t seen;
        bool spoils = r->verb >= CORRUPT, at_the_end = r->when_after || spoils || r->verb == UNNAMED;
        if ((r->function != (int)f && r->function != ANY_FUNCTION) || at_the_end != after) continue;
        if (spoils && (*rv != CKR_OK || !v[3])) continue; /* no signature, or only its length was asked for */
        if (!fires(c, r, &seen)) continue;
        switch (r->verb) {
        case RETURN: *rv = r->code; return true;
        case DELAY: sleep_ms(r->ms + r->jitter * fraction(dice(~c->seed, r, seen))); break;
        case HANG: hang(r); break;
        case CRASH: signal((int)r->code, SIG_DFL); raise((int)r->code); abort();
        case EXIT: _exit((int)r->code);
        case PRINT: printf("vendor chatter from %s\n", FUNCTION[f].name); fflush(stdout); break;
        case LOGOUT: if (FUNCTION[f].first == FIRST_SESSION) log_out(v[0]); break;
        case UNNAMED: if (*rv == CKR_OK) unname((token_info *)v[1]); break;
        case POISON: poison(v[0]); *rv = r->code; return true;
        default: spoil(r, v);
        }
    }
    return false;
}

/* ---- Signatures that are none ---- */

static const unsigned char CURVE[] = {0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x0A}; /* secp256k1 in DER */
static const unsigned char ORDER[32] = {
    0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE,
    0xBA, 0xAE, 0xDC, 0xE6, 0xAF, 0x48, 0xA0, 0x3B, 0xBF, 0xD2, 0x5E, 0x8C, 0xD0, 0x36, 0x41, 0x41};

static void raise_s(unsigned char *s) {
    unsigned char other[32];
    int borrow = 0;
    for (int i = 31; i >= 0; i--) {
        int difference = ORDER[i] - s[i] - borrow;
        borrow = difference < 0;
        other[i] = (unsigned char)difference;
    }
    if (memcmp(other, s, 32) > 0) memcpy(s, other, 32); /* of s and n - s the higher one */
}

/* A session of our own beside the application's, which may be in the middle of something. It shares the login. */
static word open_helper(word slot) {
    word handle = 0;
    return REAL(C_OpenSession, slot, CKF_SERIAL_SESSION, 0, 0, W(&handle)) ? 0 : handle;
}

static void sign_with_another_key(word slot, const word *v) {
    unsigned char yes = 1, no = 0;
    attribute public_half[] = {{CKA_TOKEN, &no, 1}, {CKA_EC_PARAMS, (void *)CURVE, sizeof CURVE}};
    attribute private_half[] = {{CKA_TOKEN, &no, 1}, {CKA_PRIVATE, &yes, 1}, {CKA_SIGN, &yes, 1}};
    mechanism generate = {CKM_EC_KEY_PAIR_GEN, NULL, 0}, ecdsa = {CKM_ECDSA, NULL, 0};
    word public_key, private_key;
    pthread_rwlock_rdlock(&forwarding);
    word helper = open_helper(slot);
    word rv = REAL(C_GenerateKeyPair, helper, W(&generate), W(public_half), 2, W(private_half), 3, W(&public_key),
                   W(&private_key));
    if (!rv) rv = REAL(C_SignInit, helper, W(&ecdsa), private_key);
    if (!rv) rv = REAL(C_Sign, helper, v[1], v[2], v[3], v[4]);
    REAL(C_CloseSession, helper); /* the key goes with it */
    pthread_rwlock_unlock(&forwarding);
    if (rv) fprintf(stderr, "p11fault: no signature by another key: 0x%lx\n", rv);
}

static void spoil(const rule *r, const word *v) {
    unsigned char *signature = (unsigned char *)v[3];
    word *size = (word *)v[4];
    switch (r->verb) {
    case CORRUPT: signature[*size - 1] ^= 1; break;
    case TRUNCATE: *size = r->code; break;
    case ZERO: memset(signature, 0, *size); break;
    case HIGH_S: if (*size == 64) raise_s(signature + 32); break;
    case OTHER_KEY: sign_with_another_key(look_up(v[0]).slot, v); break;
    }
}

/* ---- Public points and templates ---- */

enum { MAX_ATTRIBUTES = 64, POINT_ROOM = 128 };
enum purpose { SEARCH, STORE };

typedef struct { attribute items[MAX_ATTRIBUTES]; word count; unsigned char point[POINT_ROOM], id[64]; } template;

static unsigned char NO_ID[] = "p11fault: nothing has this id";

static word class_of_template(const attribute *given, word count) {
    for (word i = 0; i < count; i++)
        if (given[i].type == CKA_CLASS && given[i].size == sizeof(word)) return *(word *)given[i].value;
    return UNAVAILABLE;
}

static bool touches_points(const control *c) {
    return c->quirks[RAW_EC_POINT] || c->quirks[BARE_EC_POINT] || c->quirks[POINT_ON_PRIVATE_KEY] ||
           c->quirks[NO_POINT_ON_PRIVATE_KEY] || c->quirks[NO_POINT_ON_PUBLIC_KEY];
}

/* Bytes of the DER form that the module in question leaves out at the front. */
static word bytes_left_out(const control *c) { return c->quirks[BARE_EC_POINT] ? 3 : c->quirks[RAW_EC_POINT] ? 2 : 0; }

/* Wrap a point in the form of the module in question into DER; 0 where it has another form. */
static word unwrap_point(word left_out, const attribute *given, unsigned char *point) {
    static const unsigned char header[] = {0x04, 0x41, 0x04};
    if (given->size != 67 - left_out) return 0;
    memcpy(point, header, left_out);
    memcpy(point + left_out, given->value, given->size);
    return 67;
}

/* Find one object by class and another attribute, and read one of its attributes; its size, or 0. */
static word read_of_other_half(word slot, word class, attribute by, word wanted, void *value, word room) {
    attribute search[] = {{CKA_CLASS, &class, sizeof class}, by};
    attribute read = {wanted, value, room};
    word object = 0, found = 0, helper = open_helper(slot);
    if (!REAL(C_FindObjectsInit, helper, W(search), 2)) {
        REAL(C_FindObjects, helper, W(&object), 1, W(&found));
        REAL(C_FindObjectsFinal, helper);
    }
    if (!found || REAL(C_GetAttributeValue, helper, object, W(&read), 1)) read.size = 0;
    REAL(C_CloseSession, helper);
    return read.size;
}

static word rewrite_point(const control *c, word slot, word class, enum purpose purpose, const attribute *given,
                          template *out, attribute *item) {
    word size = unwrap_point(bytes_left_out(c), given, out->point);
    bool hidden = (class == CKO_PRIVATE_KEY && c->quirks[NO_POINT_ON_PRIVATE_KEY]) ||
                  (class == CKO_PUBLIC_KEY && c->quirks[NO_POINT_ON_PUBLIC_KEY]);
    if (purpose == STORE) {
        if (class == CKO_PRIVATE_KEY && c->quirks[POINT_ON_PRIVATE_KEY]) return 0; /* the real one would not take it */
        *item = size ? (attribute){CKA_EC_POINT, out->point, size} : *given;
    } else if (!size || hidden) {
        *item = (attribute){CKA_ID, NO_ID, sizeof NO_ID};
    } else if (class == CKO_PRIVATE_KEY && c->quirks[POINT_ON_PRIVATE_KEY]) {
        attribute by_point = {CKA_EC_POINT, out->point, size};
        size = read_of_other_half(slot, CKO_PUBLIC_KEY, by_point, CKA_ID, out->id, sizeof out->id);
        *item = size ? (attribute){CKA_ID, out->id, size} : (attribute){CKA_ID, NO_ID, sizeof NO_ID};
    } else {
        *item = (attribute){CKA_EC_POINT, out->point, size};
    }
    return 1;
}

/* The template that the real module gets. */
static word rewrite(const control *c, word slot, enum purpose purpose, const attribute *given, word count,
                    template *out) {
    word class = class_of_template(given, count);
    out->count = 0;
    if (count > MAX_ATTRIBUTES) return CKR_ARGUMENTS_BAD;
    for (word i = 0; i < count; i++) {
        attribute *item = &out->items[out->count++];
        *item = given[i];
        if (given[i].type == CKA_ID && given[i].size > 2) {
            if (c->quirks[CKA_ID_2_REFUSED]) return CKR_ATTRIBUTE_VALUE_INVALID;
            if (c->quirks[CKA_ID_2]) item->size = 2;
        }
        if (given[i].type == CKA_EC_POINT && given[i].value && touches_points(c))
            out->count -= !rewrite_point(c, slot, class, purpose, &given[i], out, item);
    }
    return CKR_OK;
}

/* CKA_EC_POINT of an object as the module in question would have it; its size, or UNAVAILABLE. */
static word point_of(const control *c, word slot, word handle, word object, unsigned char *point) {
    word class = 0, left_out = bytes_left_out(c);
    unsigned char id[64];
    attribute of_class = {CKA_CLASS, &class, sizeof class}, of_id = {CKA_ID, id, sizeof id};
    attribute of_point = {CKA_EC_POINT, point, POINT_ROOM};
    REAL(C_GetAttributeValue, handle, object, W(&of_class), 1);
    if (class == CKO_PRIVATE_KEY && c->quirks[NO_POINT_ON_PRIVATE_KEY]) return UNAVAILABLE;
    if (class == CKO_PUBLIC_KEY && c->quirks[NO_POINT_ON_PUBLIC_KEY]) return UNAVAILABLE;
    if (class == CKO_PRIVATE_KEY && c->quirks[POINT_ON_PRIVATE_KEY]) {
        if (REAL(C_GetAttributeValue, handle, object, W(&of_id), 1)) return UNAVAILABLE;
        of_point.size = read_of_other_half(slot, CKO_PUBLIC_KEY, of_id, CKA_EC_POINT, point, POINT_ROOM);
    } else if (REAL(C_GetAttributeValue, handle, object, W(&of_point), 1)) {
        return UNAVAILABLE;
    }
    if (of_point.size != 67) return of_point.size ? of_point.size : UNAVAILABLE;
    memmove(point, point + left_out, 67 - left_out);
    return 67 - left_out;
}

static word get_attributes(const control *c, word slot, word handle, word object, attribute *asked, word count) {
    template others = {.count = 0};
    attribute *points[MAX_ATTRIBUTES], *origins[MAX_ATTRIBUTES];
    word point_count = 0, rv = CKR_OK;
    if (count > MAX_ATTRIBUTES) return CKR_ARGUMENTS_BAD;
    for (word i = 0; i < count; i++)
        if (asked[i].type == CKA_EC_POINT) points[point_count++] = &asked[i];
        else origins[others.count] = &asked[i], others.items[others.count++] = asked[i];
    if (others.count || !point_count) rv = REAL(C_GetAttributeValue, handle, object, W(others.items), others.count);
    for (word i = 0; i < others.count; i++) origins[i]->size = others.items[i].size;
    for (word i = 0; i < point_count; i++) {
        unsigned char point[POINT_ROOM];
        word size = point_of(c, slot, handle, object, point), room = points[i]->size;
        points[i]->size = size;
        if (size == UNAVAILABLE) {
            rv = rv ? rv : CKR_ATTRIBUTE_TYPE_INVALID;
        } else if (points[i]->value && room < size) {
            points[i]->size = UNAVAILABLE;
            rv = rv ? rv : CKR_BUFFER_TOO_SMALL;
        } else if (points[i]->value) {
            memcpy(points[i]->value, point, size);
        }
    }
    return rv;
}

/* ---- Handles that belong to a session carry its serial number in their upper half ---- */

enum { SERIAL_SHIFT = 32 };
static const word HANDLE_MASK = 0xFFFFFFFF;

static word tagged(word handle, uint64_t serial) { return handle ? handle | serial << SERIAL_SHIFT : 0; }

/* Replace the handles among the arguments by those of the real module; a return code for those of another session. */
static word untag(enum function f, word *v, uint64_t serial) {
    bool is_key = FUNCTION[f].handles[0] == 2;
    for (int i = 0; i < 2; i++) {
        int argument = FUNCTION[f].handles[i];
        if (!argument || !v[argument]) continue;
        if (v[argument] >> SERIAL_SHIFT != serial) return is_key ? CKR_KEY_HANDLE_INVALID : CKR_OBJECT_HANDLE_INVALID;
        v[argument] &= HANDLE_MASK;
    }
    return CKR_OK;
}

static void tag(enum function f, const word *v, uint64_t serial) {
    for (int i = 0; i < 2; i++)
        if (FUNCTION[f].made[i]) {
            word *made = (word *)v[FUNCTION[f].made[i]];
            *made = tagged(*made, serial);
        }
    if (f == C_FindObjects)
        for (word i = 0; i < *(word *)v[3]; i++) ((word *)v[1])[i] = tagged(((word *)v[1])[i], serial);
}

/* ---- A call, from the application to the real module and back ---- */

/* Whether the token is out. Seeing that it was out, and is back, costs the sessions and the login. */
static bool is_gone(const control *c) {
    pthread_mutex_lock(&tracking);
    bool gone = c->gone || (was_gone && c->quirks[GONE_UNTIL_INITIALIZE]);
    bool back = !gone && (was_gone || plug != c->replugged);
    plug = c->replugged;
    was_gone = gone;
    pthread_mutex_unlock(&tracking);
    if (back) drop_sessions(true, 0, true);
    return gone;
}

static word refusal_of_gone_token(enum function f, word *v) {
    switch (f) {
    case C_GetSlotInfo: {
        word rv = forward_as_is(f, v);
        if (!rv) ((slot_info *)v[1])->flags &= ~(word)CKF_TOKEN_PRESENT;
        return rv;
    }
    case C_GetSlotList:
        if ((unsigned char)v[0]) return *(word *)v[2] = 0, CKR_OK;
        return forward_as_is(f, v);
    case C_CloseSession:
        forward_as_is(f, v);
        forget(v[0]);
        return CKR_DEVICE_REMOVED;
    default: return FUNCTION[f].first == FIRST_SLOT ? CKR_TOKEN_NOT_PRESENT : CKR_DEVICE_REMOVED;
    }
}

static word log_in(const control *c, word *v) {
    const char *pin = (const char *)v[2];
    if (pin && c->quirks[PIN_CU_USER]) {
        const char *colon = memchr(pin, ':', v[3]);
        if (!colon || colon == pin) return CKR_PIN_INCORRECT;
        v[3] -= (word)(colon + 1 - pin);
        v[2] = W(colon + 1);
    } else if (pin && c->quirks[PIN_AUTH_KEY]) {
        for (int i = 0; i < 4; i++)
            if (v[3] < 4 || !isxdigit((unsigned char)pin[i])) return CKR_PIN_INCORRECT;
        v[2] += 4;
        v[3] -= 4;
    }
    return forward_as_is(C_Login, v);
}

static word open_session(const control *c, word *v) {
    if (c->quirks[RW_SESSIONS_ONLY] && !(v[1] & CKF_RW_SESSION)) return CKR_SESSION_READ_ONLY;
    if (!reserve_session(c->sessions, c->device_sessions)) return CKR_SESSION_COUNT;
    word rv = forward_as_is(C_OpenSession, v);
    if (rv) release_session();
    else track(*(word *)v[4], v[0]);
    return rv;
}

static void change_token_info(const control *c, token_info *info) {
    info->flags = (info->flags | c->set_flags) & ~c->clear_flags;
    if (c->max_sessions) info->max_sessions = c->max_sessions;
    if (*c->label) memset(info->label, ' ', 32), memcpy(info->label, c->label, strlen(c->label));
    if (*c->serial) memset(info->serial, ' ', 16), memcpy(info->serial, c->serial, strlen(c->serial));
}

/* Forward with the templates rewritten; the template is argument "at", and for a key pair also two further on. */
static word forward_templates(const control *c, enum function f, word *v, int at, enum purpose purpose, word slot) {
    template first, second;
    pthread_rwlock_rdlock(&forwarding);
    word rv = rewrite(c, slot, purpose, (attribute *)v[at], v[at + 1], &first);
    v[at] = W(first.items), v[at + 1] = first.count;
    if (!rv && f == C_GenerateKeyPair) {
        rv = rewrite(c, slot, purpose, (attribute *)v[at + 2], v[at + 3], &second);
        v[at + 2] = W(second.items), v[at + 3] = second.count;
    }
    if (!rv) rv = call_real(f, v);
    pthread_rwlock_unlock(&forwarding);
    return rv;
}

/* ---- Signatures that are given again ---- */

enum { DIGEST = 32, PAIR = 64, RECALLED = 4096 };

static struct { word key; unsigned char digest[DIGEST], signature[PAIR]; } recalled[RECALLED];
static pthread_mutex_t recalling = PTHREAD_MUTEX_INITIALIZER;

/* The key that a session was told to sign with, and from now on this one (0 for none). */
static word exchange_key(word handle, word key) {
    pthread_mutex_lock(&tracking);
    session *found = tracked(handle);
    word before = found ? found->signs_with : 0;
    if (found) found->signs_with = key;
    pthread_mutex_unlock(&tracking);
    return before;
}

/* C_Sign of a session whose C_SignInit was not forwarded. */
static word sign_or_recall(word key, word *v) {
    mechanism ecdsa = {CKM_ECDSA, NULL, 0};
    const unsigned char *digest = (const unsigned char *)v[1];
    uint64_t place = key;
    for (int i = 0; i < DIGEST; i++) place = place * 31 + digest[i];
    place %= RECALLED;
    pthread_mutex_lock(&recalling);
    bool known = recalled[place].key == key && !memcmp(recalled[place].digest, digest, DIGEST);
    if (known) memcpy((void *)v[3], recalled[place].signature, PAIR);
    pthread_mutex_unlock(&recalling);
    if (known) return *(word *)v[4] = PAIR, CKR_OK;
    word rv = forward_as_is(C_SignInit, (const word[ARGUMENTS]){v[0], W(&ecdsa), key});
    if (!rv) rv = forward_as_is(C_Sign, v);
    if (rv || *(word *)v[4] != PAIR) return rv;
    pthread_mutex_lock(&recalling);
    recalled[place].key = key;
    memcpy(recalled[place].digest, digest, DIGEST);
    memcpy(recalled[place].signature, (void *)v[3], PAIR);
    pthread_mutex_unlock(&recalling);
    return CKR_OK;
}

static word forward(const control *c, enum function f, word *v) {
    word slot = FUNCTION[f].first == FIRST_SESSION ? look_up(v[0]).slot : 0, rv;
    word key;
    switch (f) {
    case C_SignInit:
        if (!c->recall || !v[1] || ((mechanism *)v[1])->mechanism != CKM_ECDSA) return forward_as_is(f, v);
        exchange_key(v[0], v[2]);
        return CKR_OK;
    case C_Sign:
        if (!look_up(v[0]).signs_with) return forward_as_is(f, v);
        if (!v[3]) return *(word *)v[4] = PAIR, CKR_OK; /* how long will it be? */
        key = exchange_key(v[0], 0);
        if (v[2] != DIGEST) return CKR_DATA_LEN_RANGE;
        return *(word *)v[4] < PAIR ? CKR_BUFFER_TOO_SMALL : sign_or_recall(key, v);
    case C_Initialize:
        if (c->cant_lock && v[0] && ((initialize_args *)v[0])->flags & CKF_OS_LOCKING_OK) return CKR_CANT_LOCK;
        return forward_as_is(f, v);
    case C_Finalize:
        rv = forward_as_is(f, v);
        finalized_once = true;
        pthread_mutex_lock(&tracking);
        was_gone = false;
        pthread_mutex_unlock(&tracking);
        pthread_mutex_lock(&recalling);
        memset(recalled, 0, sizeof recalled); /* handles are given anew */
        pthread_mutex_unlock(&recalling);
        if (!rv) drop_sessions(true, 0, false);
        return rv;
    case C_GetSlotList:
        rv = forward_as_is(f, v);
        if (!rv && v[1])
            for (word i = 0; i < *(word *)v[2]; i++) ((word *)v[1])[i] += c->slot_offset;
        return rv;
    case C_GetTokenInfo:
        if (c->hidden && !finalized_once) return CKR_TOKEN_NOT_PRESENT;
        rv = forward_as_is(f, v);
        if (!rv) change_token_info(c, (token_info *)v[1]);
        return rv;
    case C_GetMechanismList:
        rv = forward_as_is(f, v);
        if (!rv && v[1] && c->no_ecdsa)
            for (word i = 0; i < *(word *)v[2]; i++)
                if (((word *)v[1])[i] == CKM_ECDSA) ((word *)v[1])[i] = CKM_ECDSA_SHA1;
        return rv;
    case C_OpenSession: return open_session(c, v);
    case C_CloseSession:
        rv = forward_as_is(f, v);
        if (!rv) forget(v[0]);
        return rv;
    case C_CloseAllSessions:
        rv = forward_as_is(f, v);
        if (!rv) drop_sessions(false, v[0], false);
        return rv;
    case C_GetSessionInfo:
        rv = forward_as_is(f, v);
        if (!rv) ((session_info *)v[1])->slot += c->slot_offset;
        return rv;
    case C_Login: return log_in(c, v);
    case C_Logout:
        rv = forward_as_is(f, v);
        if (!rv && c->quirks[LOGOUT_DROPS_SESSIONS]) drop_sessions(true, 0, true);
        return rv;
    case C_CreateObject: return forward_templates(c, f, v, 1, STORE, slot);
    case C_SetAttributeValue: return forward_templates(c, f, v, 2, STORE, slot);
    case C_GenerateKeyPair: return forward_templates(c, f, v, 2, STORE, slot);
    case C_FindObjectsInit: return forward_templates(c, f, v, 1, SEARCH, slot);
    case C_GetAttributeValue:
        if (!touches_points(c)) return forward_as_is(f, v);
        pthread_rwlock_rdlock(&forwarding);
        rv = get_attributes(c, slot, v[0], v[1], (attribute *)v[2], v[3]);
        pthread_rwlock_unlock(&forwarding);
        return rv;
    default: return forward_as_is(f, v);
    }
}

static bool works_on_a_poisoned_session(enum function f) {
    return f == C_CloseSession || f == C_GetSessionInfo || f == C_Login || f == C_Logout;
}

/* What happens between the rules of before and after. */
static word pass_through(const control *c, enum function f, const word *given) {
    word v[ARGUMENTS], rv;
    bool on_session = FUNCTION[f].first == FIRST_SESSION, on_token = on_session || FUNCTION[f].first == FIRST_SLOT;
    memcpy(v, given, sizeof v);
    if (FUNCTION[f].first == FIRST_SLOT) v[0] -= c->slot_offset;
    if ((on_token || f == C_GetSlotList) && is_gone(c)) {
        rv = refusal_of_gone_token(f, v);
        if (!rv && f == C_GetSlotList && v[1])
            for (word i = 0; i < *(word *)v[2]; i++) ((word *)v[1])[i] += c->slot_offset;
        return rv;
    }
    if (on_session && is_poisoned(c, v[0]) && !works_on_a_poisoned_session(f)) return CKR_OPERATION_ACTIVE;
    uint64_t serial = on_session && c->quirks[HANDLES_PER_SESSION] ? look_up(v[0]).serial : 0;
    if (serial && (rv = untag(f, v, serial))) return rv;
    rv = forward(c, f, v);
    if (!rv && serial) tag(f, given, serial);
    return rv;
}

static void note_signing_before(word handle) {
    pthread_mutex_lock(&tracking);
    session *found = tracked(handle);
    if (found && found->failed) atomic_fetch_add(&shared->reused, 1);
    pthread_mutex_unlock(&tracking);
}

static void note_signing_failure(word handle) {
    pthread_mutex_lock(&tracking);
    session *found = tracked(handle);
    if (found) found->failed = true;
    pthread_mutex_unlock(&tracking);
}

static word dispatch(enum function f, const word *v) {
    bool signs = f == C_SignInit || f == C_Sign;
    control *c = acquire_control();
    word rv = CKR_OK;
    atomic_fetch_add(&shared->calls[f], 1);
    if (signs) note_signing_before(v[0]);
    if (c->broken) rv = CKR_CONTROL_NOT_UNDERSTOOD;
    else if (!apply_rules(c, f, v, false, &rv)) {
        rv = pass_through(c, f, v);
        apply_rules(c, f, v, true, &rv);
    }
    if (signs && rv) note_signing_failure(v[0]);
    release_control(c);
    return rv;
}

/* ---- The module that the application sees ---- */

#define X(name, ...) \
    static word our_##name(word a, word b, word c, word d, word e, word f, word g, word h) { \
        return dispatch(C_##name, (const word[ARGUMENTS]){a, b, c, d, e, f, g, h}); \
    }
FUNCTIONS(X)
#undef X

static function_list list = {{2, 40}, {
#define X(name, ...) our_##name,
    FUNCTIONS(X)
#undef X
}};

static pthread_once_t set_up_once = PTHREAD_ONCE_INIT;
static bool is_set_up;

static void set_up(void) {
    const char *real = getenv("P11FAULT_REAL");
    control_path = getenv("P11FAULT_CONTROL");
    if (!real || !control_path) {
        fprintf(stderr, "p11fault: set P11FAULT_REAL and P11FAULT_CONTROL\n");
        return;
    }
    control_path = strdup(control_path); /* the environment may change under us */
    void *module = dlopen(real, RTLD_NOW | RTLD_LOCAL);
    word (*get)(function_list **) = module ? (word (*)(function_list **))dlsym(module, "C_GetFunctionList") : NULL;
    if (!get || get(&real_functions)) {
        fprintf(stderr, "p11fault: %s can not be used: %s\n", real, module ? "not a PKCS#11 library" : dlerror());
        return;
    }
    if (!control_path || !open_shared(control_path)) {
        fprintf(stderr, "p11fault: %s.state can not be used: %s\n", control_path, strerror(errno));
        return;
    }
    is_set_up = true;
}

/* The one function that is exported; in here that name is a number of the table above. */
word get_function_list(function_list **out) __asm__("C_GetFunctionList");

word get_function_list(function_list **out) {
    pthread_once(&set_up_once, set_up);
    if (!is_set_up) return CKR_GENERAL_ERROR;
    list.functions[C_GetFunctionList] = (void *)get_function_list;
    *out = &list;
    return CKR_OK;
}
