-- A school: students, teachers, courses, and what happens between them. PostgreSQL; DuckDB and SQLite read it as it is.

CREATE TABLE teachers (
    teacher_id        uuid PRIMARY KEY,
    employee_code     varchar(12) NOT NULL UNIQUE,
    first_name        varchar(40) NOT NULL,
    last_name         varchar(40) NOT NULL,
    qualification     varchar(10) NOT NULL CHECK (qualification IN ('BA', 'BSc', 'BEd', 'MA', 'MSc', 'MEd', 'PhD')),
    experience_years  smallint NOT NULL CHECK (experience_years >= 0 AND experience_years <= 45),
    department        varchar(30) NOT NULL CHECK (department IN ('Arts', 'Commerce', 'Languages', 'Mathematics', 'Science', 'Social Studies', 'Sports')),
    phone             varchar(20),
    email             varchar(80) NOT NULL UNIQUE,
    hire_date         date NOT NULL CHECK (hire_date BETWEEN '1990-01-01' AND '2024-12-31'),
    status            varchar(10) NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'on leave', 'retired', 'resigned'))
);

CREATE TABLE students (
    student_id           uuid PRIMARY KEY,
    enrollment_number    varchar(16) NOT NULL UNIQUE,
    first_name           varchar(40) NOT NULL,
    last_name            varchar(40) NOT NULL,
    date_of_birth        date NOT NULL CHECK (date_of_birth >= '2004-01-01' AND date_of_birth < '2019-01-01'),
    gender               varchar(10) NOT NULL CHECK (gender IN ('female', 'male', 'other')),
    address_line1        varchar(80) NOT NULL,
    address_line2        varchar(40),
    city                 varchar(40) NOT NULL,
    state                varchar(40) NOT NULL,
    postal_code          char(5) NOT NULL,
    phone                varchar(20),
    email                varchar(80) NOT NULL UNIQUE,
    guardian_name        varchar(60) NOT NULL,
    guardian_contact     varchar(20) NOT NULL,
    enrollment_date      date NOT NULL CHECK (enrollment_date >= '2015-01-01' AND enrollment_date <= '2024-12-31'),
    status               varchar(12) NOT NULL CHECK (status IN ('active', 'graduated', 'transferred', 'withdrawn')),
    homeroom_teacher_id  uuid REFERENCES teachers (teacher_id)
);

CREATE TABLE courses (
    course_id        uuid PRIMARY KEY,
    course_code      char(8) NOT NULL UNIQUE,
    name             varchar(60) NOT NULL,
    description      text,
    credits          smallint NOT NULL CHECK (credits BETWEEN 1 AND 6),
    level            varchar(12) NOT NULL CHECK (level IN ('beginner', 'intermediate', 'advanced')),
    department       varchar(30) NOT NULL CHECK (department IN ('Arts', 'Commerce', 'Languages', 'Mathematics', 'Science', 'Social Studies', 'Sports')),
    is_active        boolean NOT NULL DEFAULT true,
    lead_teacher_id  uuid NOT NULL REFERENCES teachers (teacher_id)
);

CREATE TABLE student_courses (
    student_course_id  uuid PRIMARY KEY,
    student_id         uuid NOT NULL,
    course_id          uuid NOT NULL,
    academic_year      smallint NOT NULL CHECK (academic_year >= 2015 AND academic_year <= 2024),
    term               varchar(6) NOT NULL CHECK (term IN ('autumn', 'spring', 'summer')),
    enrollment_status  varchar(10) NOT NULL CHECK (enrollment_status IN ('enrolled', 'completed', 'dropped')),
    grade_letter       char(1) CHECK (grade_letter IN ('A', 'B', 'C', 'D', 'F')),
    grade_points       numeric(3, 2) CHECK (grade_points >= 0 AND grade_points <= 4),
    UNIQUE (student_id, course_id),
    FOREIGN KEY (student_id) REFERENCES students (student_id),
    FOREIGN KEY (course_id) REFERENCES courses (course_id)
);

CREATE TABLE marks (
    mark_id                 uuid PRIMARY KEY,
    student_course_id       uuid NOT NULL REFERENCES student_courses (student_course_id),
    assessed_by_teacher_id  uuid REFERENCES teachers (teacher_id),
    assessment_type         varchar(12) NOT NULL CHECK (assessment_type IN ('quiz', 'assignment', 'midterm', 'project', 'final')),
    max_score               smallint NOT NULL CHECK (max_score IN (100, 120, 150)),
    score_obtained          numeric(5, 2) NOT NULL CHECK (score_obtained >= 0 AND score_obtained <= 100),
    weightage_percent       numeric(5, 2) NOT NULL CHECK (weightage_percent > 0 AND weightage_percent <= 100),
    assessment_date         date NOT NULL CHECK (assessment_date BETWEEN '2015-01-01' AND '2024-12-31')
);

CREATE TABLE fees (
    fee_id                  uuid PRIMARY KEY,
    student_id              uuid NOT NULL REFERENCES students (student_id),
    fee_type                varchar(12) NOT NULL CHECK (fee_type IN ('tuition', 'library', 'laboratory', 'sports', 'examination')),
    amount_due              numeric(10, 2) NOT NULL CHECK (amount_due > 0),
    amount_paid             numeric(10, 2) NOT NULL CHECK (amount_paid >= 0),
    due_date                date NOT NULL CHECK (due_date >= '2015-01-01'),
    payment_date            date,
    payment_mode            varchar(14) CHECK (payment_mode IN ('cash', 'card', 'bank transfer', 'online')),
    status                  varchar(10) NOT NULL CHECK (status IN ('pending', 'partial', 'paid', 'overdue')),
    approved_by_teacher_id  uuid REFERENCES teachers (teacher_id)
);

CREATE TABLE games_participation (
    games_participation_id  uuid PRIMARY KEY,
    student_id              uuid NOT NULL REFERENCES students (student_id),
    game_name               varchar(30) NOT NULL,
    team_name               varchar(40),
    level                   varchar(14) NOT NULL CHECK (level IN ('school', 'district', 'state', 'national')),
    position_played         varchar(20),
    achievement             varchar(30),
    season_year             smallint NOT NULL CHECK (season_year BETWEEN 2015 AND 2024),
    coach_teacher_id        uuid NOT NULL REFERENCES teachers (teacher_id),
    manager_teacher_id      uuid REFERENCES teachers (teacher_id)
);

CREATE TABLE canteen_transactions (
    transaction_id            uuid PRIMARY KEY,
    student_id                uuid NOT NULL REFERENCES students (student_id),
    transaction_date          timestamp NOT NULL CHECK (transaction_date >= '2022-01-01 00:00:00' AND transaction_date < '2025-01-01 00:00:00'),
    item_description          varchar(40) NOT NULL,
    quantity                  smallint NOT NULL CHECK (quantity >= 1 AND quantity <= 10),
    amount                    numeric(6, 2) NOT NULL CHECK (amount > 0),
    payment_method            varchar(10) NOT NULL CHECK (payment_method IN ('cash', 'card', 'wallet')),
    authorized_by_teacher_id  uuid REFERENCES teachers (teacher_id)
);

CREATE TABLE transport_assignments (
    transport_id               uuid PRIMARY KEY,
    student_id                 uuid NOT NULL UNIQUE REFERENCES students (student_id),
    route_name                 varchar(40) NOT NULL,
    pickup_point               varchar(40) NOT NULL,
    dropoff_point              varchar(40) NOT NULL,
    vehicle_number             varchar(16) NOT NULL,
    driver_name                varchar(60) NOT NULL,
    driver_contact             varchar(20),
    valid_from                 date NOT NULL CHECK (valid_from >= '2020-01-01' AND valid_from < '2024-01-01'),
    valid_to                   date CHECK (valid_to >= '2024-01-01' AND valid_to <= '2024-12-31'),
    monthly_fee                numeric(7, 2) NOT NULL CHECK (monthly_fee >= 0),
    route_incharge_teacher_id  uuid REFERENCES teachers (teacher_id)
);

CREATE TABLE course_instructors (
    course_instructor_id  uuid PRIMARY KEY,
    course_id             uuid NOT NULL REFERENCES courses (course_id),
    teacher_id            uuid NOT NULL REFERENCES teachers (teacher_id),
    academic_year         smallint NOT NULL CHECK (academic_year >= 2015 AND academic_year <= 2024),
    term                  varchar(6) NOT NULL CHECK (term IN ('autumn', 'spring', 'summer')),
    role                  varchar(12) NOT NULL CHECK (role IN ('lead', 'assistant', 'guest')),
    UNIQUE (course_id, teacher_id)
);
